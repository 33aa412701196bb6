"""Advantages, ratios, KL and loss of BRPO as functions of tensors (paper, "BRPO").

Maximised is the mean over a group's answers of min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A) - beta * KL. Only
sampled tokens count: the prompt, re-inserted visual tokens and forced tokens are outside the mask, and what tensors
hold there, infinities included, touches neither loss nor gradient. Departure from the paper: the KL's estimator is
taken per token, not per answer, where it exponentiates a sum over hundreds of tokens (`kl_estimate="answer"` does
that). What the paper leaves open is named at each option.

Legend: Q questions, G answers per question, B = Q * G answers with those of one question next to each other, L token
columns. Log-probabilities are those of the tokens themselves, natural logarithms.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

Level = Literal["answer", "sequence", "token"]
Aggregation = Literal["answer", "token"]
KlEstimate = Literal["token", "answer"]

BETA = 0.1  # paper, "Hyperparameters"
EPSILON = 0.2  # paper gives none; PPO's (arXiv 1707.06347) and TRL's default
STD_EPS = 1e-4  # paper gives none; TRL's
MAX_LOG_RATIO = 20.0  # keeps a whole answer's ratio finite; an infinite one turns the clipped gradient into NaN


def group_advantages(rewards: Tensor, group: int, *, eps: float = STD_EPS) -> Tensor:
    """(B,) advantages (r - mean) / (std + eps) within each group of `group` consecutive rewards (B,).

    std is the sample's (divided by G - 1): the paper writes only "std", and TRL and other GRPO code mean this one, so
    numbers compare; the population's would make all advantages 7% larger at G = 8 and change nothing else. A group
    of equal rewards gets zeros. ValueError for a group of less than two, a number of rewards that groups do not
    divide, and a reward that is not finite.
    """
    if group < 2:
        raise ValueError(f"group is {group}: an answer is compared with others of its group, so use 2 or more")
    if rewards.dim() != 1 or len(rewards) == 0 or len(rewards) % group:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)} do not split into groups of {group}")
    if not rewards.isfinite().all():
        at = int((~rewards.isfinite()).nonzero()[0])
        raise ValueError(f"reward {at} is {rewards[at].item()}: every answer needs a finite reward")
    rewards_QG = rewards.to(torch.promote_types(rewards.dtype, torch.float32)).view(-1, group)
    std = rewards_QG.std(dim=1, keepdim=True, correction=1)
    advantages = (rewards_QG - rewards_QG.mean(dim=1, keepdim=True)) / (std + eps)
    equal = rewards_QG.amax(dim=1, keepdim=True) == rewards_QG.amin(dim=1, keepdim=True)
    return advantages.masked_fill(equal, 0.0).flatten()


def log_ratio(new: Tensor, old: Tensor, mask: Tensor, level: Level = "answer") -> Tensor:
    """log(new policy / old policy) from log-probabilities (B, L), over the tokens where mask (B, L) is true.

    level "answer": their sum over the answer, (B, 1), the paper's equation (2). "sequence": that divided by the number
    of tokens, (B, 1), GSPO (arXiv 2507.18071) and TRL's level of the same name. "token": each by itself, (B, L), GRPO
    as it is mostly implemented; 0 outside the mask. An answer without tokens has log ratio 0. ValueError for another
    level or shapes that differ.
    """
    if level not in get_args(Level):
        raise ValueError(f"unknown ratio level {level!r}: use one of {', '.join(get_args(Level))}")
    difference_BL = _masked_difference(new, old, mask)
    if level == "token":
        return difference_BL
    total_B1 = difference_BL.sum(dim=1, keepdim=True)
    return total_B1 if level == "answer" else total_B1 / mask.bool().sum(dim=1, keepdim=True).clamp(min=1)


def clipped_surrogate(log_ratios: Tensor, advantages: Tensor, epsilon: float = EPSILON) -> Tensor:
    """min(ratio * A, clip(ratio, 1 - epsilon, 1 + epsilon) * A), to be maximised; paper, equation of the objective.

    log_ratios (B, L) or (B, 1), advantages (B,), result shaped as log_ratios. The paper gives no epsilon. The ratio of
    a whole answer leaves a range of 0.2 after far smaller steps than that of a token. ValueError for an epsilon that is
    not positive.
    """
    if not epsilon > 0:
        raise ValueError(f"epsilon is {epsilon}: the clip range must be positive")
    ratios = _ratios(log_ratios)
    advantages_B1 = advantages[:, None]
    return torch.minimum(ratios * advantages_B1, ratios.clamp(1 - epsilon, 1 + epsilon) * advantages_B1)


def k3_kl(new: Tensor, ref: Tensor, mask: Tensor) -> Tensor:
    """(B, L) estimate exp(ref - new) - (ref - new) - 1 of the KL to the reference; 0 outside the mask.

    The paper's estimator (k3), of each token. From log-probabilities (B, L) and a mask (B, L). ValueError for shapes
    that differ.
    """
    difference_BL = _masked_difference(ref, new, mask)
    return torch.exp(difference_BL) - difference_BL - 1


def kl_penalty(new: Tensor, ref: Tensor, mask: Tensor, level: Level, estimate: KlEstimate = "token") -> Tensor:
    """The KL as the objective subtracts it, on the scale of the ratio at the same level; (B, L) or (B, 1).

    At level "answer" the gradient of the ratio is a sum over the answer's tokens, so the k3 of its tokens are summed
    too, (B, 1): beta then weighs the same at any length. At "sequence" and "token" both are per token, (B, L). estimate
    "answer" is k3 of the whole answer's log ratio, (B, 1), as the paper writes it; only at level "answer". ValueError
    for another estimate, or "answer" at another level.
    """
    if estimate not in get_args(KlEstimate):
        raise ValueError(f"unknown kl_estimate {estimate!r}: use one of {', '.join(get_args(KlEstimate))}")
    if estimate == "answer":
        if level != "answer":
            raise ValueError(f"kl_estimate 'answer' goes with level 'answer', not {level!r}")
        total_B1 = _masked_difference(ref, new, mask).sum(dim=1, keepdim=True)
        return _ratios(total_B1) - total_B1 - 1
    kl_BL = k3_kl(new, ref, mask)
    return kl_BL.sum(dim=1, keepdim=True) if level == "answer" else kl_BL


def aggregate(values: Tensor, mask: Tensor, aggregation: Aggregation = "answer") -> Tensor:
    """One number from values (B, L) or (B, 1), which stand for each token of the answer, where mask (B, L) is true.

    "answer": mean over each answer's tokens, then over answers: the 1/G of the paper's objective with GRPO's 1/length
    (TRL's loss_type "grpo"); an answer without tokens counts as 0. "token": mean over all tokens of the batch, so that
    long answers weigh more (DAPO, arXiv 2503.14476; TRL's "bnpo"). The paper gives no rule for tokens. ValueError for
    another aggregation.
    """
    if aggregation not in get_args(Aggregation):
        raise ValueError(f"unknown aggregation {aggregation!r}: use one of {', '.join(get_args(Aggregation))}")
    sampled = mask.bool()
    kept_BL = torch.where(sampled, values, 0.0)
    if aggregation == "token":
        return kept_BL.sum() / sampled.sum().clamp(min=1)
    return (kept_BL.sum(dim=1) / sampled.sum(dim=1).clamp(min=1)).mean()


def brpo_loss(
    new: Tensor,
    old: Tensor,
    ref: Tensor | None,
    advantages: Tensor,
    mask: Tensor,
    *,
    level: Level = "answer",
    aggregation: Aggregation = "answer",
    beta: float = BETA,
    epsilon: float = EPSILON,
    kl_estimate: KlEstimate = "token",
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss, to be minimised, and detached metrics, all of shape ().

    new, old, ref: (B, L) log-probabilities under the trained policy, the one that sampled and the reference (None only
    where beta is 0); advantages (B,); mask (B, L), true at sampled tokens. Gradients flow through `new` alone.
    Metrics: "kl", mean over sampled tokens (absent without ref); "ratio", mean ratio, and "clipped", the share whose
    clipping binds: over tokens for level "token", else over answers that have tokens. ValueError for shapes that do
    not fit, a missing ref, and what the parts raise.
    """
    if advantages.shape != new.shape[:1]:
        raise ValueError(f"advantages of shape {tuple(advantages.shape)} for {len(new)} answers: give one each")
    if beta and ref is None:
        raise ValueError(f"beta is {beta} and there is no reference policy: pass ref, or beta=0")
    advantages = advantages.detach()
    log_ratios = log_ratio(new, old.detach(), mask, level)
    loss = -aggregate(clipped_surrogate(log_ratios, advantages, epsilon), mask, aggregation)
    metrics = _ratio_metrics(log_ratios.detach(), advantages, mask, level, epsilon)
    if ref is not None:
        if beta:
            loss = loss + beta * aggregate(kl_penalty(new, ref.detach(), mask, level, kl_estimate), mask, aggregation)
        metrics["kl"] = aggregate(k3_kl(new.detach(), ref.detach(), mask), mask, "token")
    return loss, metrics


def _masked_difference(left: Tensor, right: Tensor, mask: Tensor) -> Tensor:
    """(B, L) left - right where the mask is true, 0 elsewhere."""
    if left.dim() != 2 or not left.shape == right.shape == mask.shape:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (left, right, mask))
        raise ValueError(f"log-probabilities and mask must be of one shape (B, L), not {shapes}")
    return torch.where(mask.bool(), left - right, 0.0)


def _ratios(log_ratios: Tensor) -> Tensor:
    return log_ratios.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()


def _ratio_metrics(
    log_ratios: Tensor, advantages: Tensor, mask: Tensor, level: Level, epsilon: float
) -> dict[str, Tensor]:
    counted = mask.bool() if level == "token" else mask.bool().any(dim=1, keepdim=True)
    ratios, advantages_B1 = _ratios(log_ratios), advantages[:, None]
    low = (ratios < 1 - epsilon) & (advantages_B1 < 0)
    high = (ratios > 1 + epsilon) & (advantages_B1 > 0)
    return {
        "ratio": aggregate(ratios, counted, "token"),
        "clipped": aggregate((low | high).to(ratios.dtype), counted, "token"),
    }
