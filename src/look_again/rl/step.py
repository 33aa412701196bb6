"""The pure parts of a BRPO step: which questions, which rewards, what is logged."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from look_again.data.checks import select_samples
from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample
from look_again.rl.brpo_config import BrpoConfig
from look_again.rl.rewards import AccuracyReward, BalanceReward, FormatReward, reward_statistics
from look_again.rl.rollouts import Rollout
from look_again.training.trainer import epoch_generator


def load_references(config: BrpoConfig) -> list[Sample]:
    """Samples that can be rewarded. SampleError names those without a usable reference answer."""
    skipped: list[BadSample] = []
    stream = (sample for source in config.data for sample in load_samples(source, on_skip=skipped.append))
    samples, _ = select_samples(
        stream, on_bad_row=config.on_bad_row, passed_over=skipped, needs_response=False, needs_reference=True
    )
    return samples


def step_seed(seed: int, step: int, process: int) -> int:
    """The seed of everything random in a step."""
    return (seed * 1_000_003 + step) * 1009 + process


def draw_questions(
    samples: Sequence[Sample], config: BrpoConfig, step: int, process: int, processes: int
) -> list[Sample]:
    """The step's questions of one process: the epoch's permutation depends on the seed and the epoch alone."""
    first = (step * processes + process) * config.sampling.questions
    places = [divmod(place, len(samples)) for place in range(first, first + config.sampling.questions)]
    orders = {
        epoch: torch.randperm(len(samples), generator=epoch_generator(config.seed, epoch)).tolist()
        for epoch, _ in places
    }
    return [samples[orders[epoch][index]] for epoch, index in places]


def reward_table(config: BrpoConfig, rollouts: Sequence[Rollout], ids: Mapping[str, int]) -> dict[str, Tensor]:
    """Each reward of each rollout, unweighted, (B,)."""
    options, texts = config.rewarding, [rollout.text for rollout in rollouts]
    columns = {
        "completion_ids": [rollout.completion_ids for rollout in rollouts],
        "reference": [rollout.sample.reference for rollout in rollouts],
        "options": [list(rollout.sample.options) for rollout in rollouts],
    }
    functions: dict[str, Callable[..., list[float]]] = {
        "format": FormatReward(options.min_reflections),
        "accuracy": AccuracyReward(),
        "balance": BalanceReward(dict(ids), length=options.balance_tokens, floor=options.balance_floor),
    }
    return {name: torch.tensor(reward(texts, **columns)) for name, reward in functions.items()}


def count_loss_tokens(config: BrpoConfig, rollout: Rollout) -> int:
    """Tokens of a rollout that carry a loss: all that were sampled, or none of a masked answer that was cut off."""
    masked = config.objective.mask_truncated and not rollout.finished
    return 0 if masked else len(rollout.completion_ids)


def padded(parts: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, L) values padded with zeros, and the mask (B, L) of what is real."""
    values = torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)
    lengths = torch.tensor([len(part) for part in parts], device=values.device)
    return values, torch.arange(values.shape[1], device=values.device) < lengths[:, None]


def describe(
    config: BrpoConfig, rollouts: Sequence[Rollout], rewards: dict[str, Tensor], total: Tensor, ids: Mapping[str, int]
) -> dict[str, float]:
    """A step's log line: rewards, reflections and lengths, as means over its answers."""
    statistics = [
        reward_statistics(
            rollout.text,
            completion_ids=rollout.completion_ids,
            tags=dict(ids),
            reference=rollout.sample.reference,
            options=rollout.sample.options or None,
            min_reflections=config.rewarding.min_reflections,
        )
        for rollout in rollouts
    ]
    lengths = [s.tokens_per_reflection for s in statistics if s.tokens_per_reflection is not None]
    count = len(statistics)
    return {
        "reward": float(total.mean()),
        "reward_std": float(total.view(-1, config.sampling.group).std(dim=1).mean()),
        **{f"reward_{name}": float(values.mean()) for name, values in rewards.items()},
        "accuracy": sum(bool(s.correct) for s in statistics) / count,
        "well_formed": sum(s.well_formed for s in statistics) / count,
        "reflections": sum(s.reflections for s in statistics) / count,
        "empty_reflections": sum(s.empty_reflections for s in statistics) / count,
        "tokens_per_reflection": sum(lengths) / len(lengths) if lengths else 0.0,
        "tokens": sum(len(rollout.completion_ids) for rollout in rollouts) / count,
        "finished": sum(rollout.finished for rollout in rollouts) / count,
    }
