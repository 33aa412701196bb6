"""When two greedy answers count as equal: they may part only where the model itself cannot tell two tokens apart.

Kernels round differently for different batch shapes, and servers use kernels of their own. Where the two highest logits
lie closer together than that rounding, either token is the greedy one, and everything after it may differ. The paper
compares no implementations; the rule is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from look_again.core.generate import Reinsertion, Token
from look_again.core.prefill import Start, start_one
from look_again.core.reattention import Reattention, reinsert, split_by_image
from look_again.core.runner import Runner
from look_again.core.slots import Provenance
from look_again.loading import Checkpoint
from look_again.serving.backend import BackendEvent
from look_again.serving.prompt import EncodedPrompt

TOLERANCE = 1e-5  # of logits in float32


@dataclass(frozen=True)
class Parting:
    """Where two answers part.

    at: number of response tokens before it. gap: how far the lower of their two next tokens' logits lies below the
    highest logit, by one full pass over what they have in common; infinite where no two sampled tokens part them
    (other rows were put back, or one answer ends).
    """

    at: int
    gap: float


def same_but_for_ties(
    checkpoint: Checkpoint,
    prompt: EncodedPrompt,
    policy: Reattention,
    a: Sequence[BackendEvent],
    b: Sequence[BackendEvent],
    tolerance: float = TOLERANCE,
) -> bool:
    """Whether two greedy answers to one prompt are equal, or part at two tokens whose logits differ by less.

    a, b: the events of each answer; Started and Ended are passed over. The checkpoint has its model.
    """
    parted = parting(checkpoint, prompt, policy, a, b)
    return parted is None or parted.gap < tolerance


def parting(
    checkpoint: Checkpoint,
    prompt: EncodedPrompt,
    policy: Reattention,
    a: Sequence[BackendEvent],
    b: Sequence[BackendEvent],
) -> Parting | None:
    """Where two greedy answers to one prompt part; None where they are equal, which costs no forward pass."""
    ours, theirs = _told(a), _told(b)
    shared = 0
    while shared < min(len(ours), len(theirs)) and _same(ours[shared], theirs[shared]):
        shared += 1
    if shared == len(ours) == len(theirs):
        return None
    at = sum(isinstance(event, Token) for event in ours[:shared])
    chosen, other = _sampled_next(ours[shared:]), _sampled_next(theirs[shared:])
    if chosen is None or other is None or chosen == other:
        return Parting(at, math.inf)
    logits = _next_logits(checkpoint, prompt, policy, ours[:shared])
    return Parting(at, float(logits.max() - logits[[chosen, other]].min()))


def _told(events: Sequence[BackendEvent]) -> list[Token | Reinsertion]:
    return [event for event in events if isinstance(event, Token | Reinsertion)]


def _same(a: Token | Reinsertion, b: Token | Reinsertion) -> bool:
    if isinstance(a, Token) and isinstance(b, Token):
        return (a.token_id, a.forced) == (b.token_id, b.forced)
    return (
        isinstance(a, Reinsertion)
        and isinstance(b, Reinsertion)
        and a.reflection.visual_indices == b.reflection.visual_indices
    )


def _sampled_next(events: Sequence[Token | Reinsertion]) -> int | None:
    """The token that was sampled next; a re-insertion comes before the one that caused it."""
    token = next((event for event in events if isinstance(event, Token)), None)
    return None if token is None or token.forced else token.token_id


@torch.no_grad()
def _next_logits(
    checkpoint: Checkpoint, prompt: EncodedPrompt, policy: Reattention, shared: Sequence[Token | Reinsertion]
) -> torch.Tensor:
    """(W,) float32 logits after the events that two answers share; those of vision tokens are minus infinity."""
    start = start_one(checkpoint.model, policy, prompt.token_ids, prompt.pixels)
    _append(start, policy, shared)
    logits = Runner(checkpoint.model, [start.builder], [start.features]).prefill()[0].float()
    return logits.index_fill(0, torch.tensor(start.builder.tokens.never_sampled, device=logits.device), -math.inf)


def _append(start: Start, policy: Reattention, events: Sequence[Token | Reinsertion]) -> None:
    """Append events to a sequence as decoding did, taking back the pieces of a spelled tag before its insertion."""
    builder, response = start.builder, 0
    for event in events:
        if isinstance(event, Reinsertion):
            pieces = builder.truncate(len(builder) - (response - event.reflection.at))
            reinsert(builder, policy, split_by_image(event.reflection.visual_indices, start.shown))
            for piece in pieces:
                builder.add_token(piece, Provenance.SAMPLED)
        else:
            builder.add_token(event.token_id, Provenance.FORCED if event.forced else Provenance.SAMPLED)
            response += 1
