"""What the paper's theorems say of mutual information, checked on measured distributions.

Theorem 3.1 bounds what a token says of the image, I(y; c | x) <~ r H(y | x, c), by the visual share r and the token's
entropy; theorem 3.2 says that putting visual tokens back raises that bound. Here c is one of K images of equal size,
with equal chance: a finished answer is read once more with each of them in the place of its own, everywhere. With p_k
the next token's distribution under image k, H(y | x, c) is the mean of H(p_k), and I(y; c | x) is H(mean of p_k) less
that, at most ln K. What came before is the answer as it was written, so that c is drawn apart from it; the paper does
not say.

Legend: K images, n sampled tokens, V visual tokens of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from look_again.analysis.reading import LOGIT_FLOATS, FinishedSequence, Replay
from look_again.analysis.shares import sampled_slots, visual_share
from look_again.core.attention import recorded_attention
from look_again.core.slots import Slots

MARGIN = 1e-6  # nats; below it a difference is rounding


@dataclass(frozen=True)
class TokenInformation:
    """Per sampled token (n,), in nats. information: I(y; c | x). entropy: H(y | x, c). share: the visual share r."""

    information: np.ndarray
    entropy: np.ndarray
    share: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """What theorem 3.1 allows: r H(y | x, c)."""
        return self.share * self.entropy

    @property
    def holds(self) -> np.ndarray:
        """Whether the information is within the bound."""
        return self.information <= self.bound + MARGIN


def mutual_information(log_probs_KnW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """I and H, (n,) nats each, of distributions over W tokens under each of K equally likely images."""
    entropies = torch.distributions.Categorical(logits=log_probs_KnW, validate_args=False).entropy().mean(0)
    mixed = log_probs_KnW.logsumexp(0) - np.log(len(log_probs_KnW))
    total = torch.distributions.Categorical(logits=mixed, validate_args=False).entropy()
    return (total - entropies).clamp(min=0), entropies


@torch.no_grad()
def read_information(model: Any, slots: Slots, images: Sequence[torch.Tensor]) -> TokenInformation:
    """What each sampled token of a sequence says of its image.

    images: features (V, hidden) of K images, the sequence's own among them. ValueError for fewer than two, or of
    unequal size.
    """
    if len(images) < 2 or len({len(features) for features in images}) > 1:
        sizes = sorted({len(features) for features in images})
        raise ValueError(
            f"information needs two images or more of one size, not {len(images)} of {sizes} visual tokens"
        )
    queries = sampled_slots(slots)
    queries = queries[slots.sampled_from[queries] >= 0]
    with recorded_attention(model):
        replay = Replay(model, [FinishedSequence(slots, features, queries[:1]) for features in images])
        replay.prefill()
    parts = [mutual_information(part) for part in _log_probs(replay, slots.sampled_from[queries])]
    information, entropy = (torch.cat(values).numpy() for values in zip(*parts, strict=True))
    return TokenInformation(information, entropy, visual_share(slots)[queries].numpy())


def _log_probs(replay: Replay, sources: torch.Tensor) -> Iterator[torch.Tensor]:
    """(K, part of n, W) of the tokens that were sampled from the logits at `sources`, a stretch of them at a time."""
    images, width = len(replay.hidden), replay.model.config.get_text_config().vocab_size
    for part in sources.split(max(1, LOGIT_FLOATS // (images * width))):
        logits = torch.stack([replay._logits(replay.hidden[row][part]).float() for row in range(images)])
        logits[..., list(replay.tokens.never_sampled)] = -1e9
        yield logits.log_softmax(-1).cpu()


def summarise_information(looking: Sequence[TokenInformation], bare: Sequence[TokenInformation]) -> dict[str, Any]:
    """The theorems' account. looking: answers as they were written; bare: the same with nothing put back."""
    after = [first_difference(one, other) for one, other in zip(looking, bare, strict=True)]
    return {
        "theorem_3_1": {"with": _bounds(looking), "without": _bounds(bare)},
        "theorem_3_2": {
            kind: _after(tracks, after) for kind, tracks in (("with", looking), ("without", bare))
        },
    }  # fmt: skip


def first_difference(one: TokenInformation, other: TokenInformation) -> int | None:
    """The first sampled token before which something was put back; None without one."""
    different = np.flatnonzero(~np.isclose(one.share, other.share, rtol=0, atol=1e-9))
    return int(different[0]) if len(different) else None


def _bounds(tracks: Sequence[TokenInformation]) -> dict[str, Any]:
    information, bound, holds = (
        np.concatenate([getattr(track, name) for track in tracks]) for name in ("information", "bound", "holds")
    )
    telling = information > 0.01
    return {
        "tokens": len(holds),
        "bound_holds": float(holds.mean()),
        "telling_tokens": int(telling.sum()),
        "bound_holds_of_telling": float(holds[telling].mean()) if telling.any() else None,
        "mean_information": float(information.mean()),
        "mean_bound": float(bound.mean()),
    }


def _after(tracks: Sequence[TokenInformation], looks: Sequence[int | None]) -> dict[str, float | None]:
    """Means over all tokens from the first look on, each answer counted once."""
    pairs = [(track, look) for track, look in zip(tracks, looks, strict=True) if look is not None]
    return {
        name: float(np.mean([getattr(track, name)[look:].mean() for track, look in pairs])) if pairs else None
        for name in ("share", "information", "bound")
    }
