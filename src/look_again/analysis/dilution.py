"""Visual dilution: the visual share r and the attention on visual tokens while an answer grows (figures 2 and 9).

The counterpart of the paper's comparison is made on one text: what a model wrote under a policy that re-inserts is read
again with nothing put back. Both readings share every generated token, so they differ by the insertions alone; each
mode's own answers would differ in length and content, too. "Attention" is what a token's query pays, as a share of all
it pays, mean over heads and (unless said) layers. The bound of theorem 3.1, I(y; c | x) <~ r H(y | x, c), is drawn with
the model's own H for every token, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from look_again.analysis.curves import Curve, aligned, bin_width, binned
from look_again.analysis.reading import Reading
from look_again.analysis.shares import bound_share, first_look, insertion_gains, sampled_slots, visual_share
from look_again.core.slots import Slots

BEFORE_TOKENS, AFTER_TOKENS = 30, 30  # around the first look


@dataclass(frozen=True)
class Track:
    """One answer under one policy, a value per sampled token: (n,), per_layer (layers, n).

    share: r counted over slots. bound: r by the theorems' formula. original, reinserted: attention on the prompt's
    visual tokens and on all re-inserted ones. bound_nats: r H. look: index of the token after the first insertion.
    gains: visual share before and after each insertion.
    """

    share: np.ndarray
    bound: np.ndarray
    original: np.ndarray
    reinserted: np.ndarray
    per_layer: np.ndarray
    bound_nats: np.ndarray
    look: int | None = None
    gains: tuple[tuple[float, float], ...] = ()

    @property
    def visual(self) -> np.ndarray:
        """Attention on all visual tokens."""
        return self.original + self.reinserted


def build_track(slots: Slots, reading: Reading) -> Track:
    """The track of a reading whose watched queries are the sampled tokens, with their entropies."""
    assert reading.entropy_nats is not None
    share = visual_share(slots)[sampled_slots(slots)]
    mean = reading.on_blocks.mean(0)
    return Track(
        share=share.numpy(),
        bound=bound_share(slots).numpy(),
        original=mean[:, 0].numpy(),
        reinserted=mean[:, 1:].sum(-1).numpy(),
        per_layer=reading.on_blocks.sum(-1).numpy(),
        bound_nats=(share * reading.entropy_nats).numpy(),
        look=first_look(slots),
        gains=tuple(insertion_gains(slots)),
    )


VALUES: dict[str, Callable[[Track], np.ndarray]] = {
    "share": lambda track: track.share,
    "bound_share": lambda track: track.bound,
    "bound_nats": lambda track: track.bound_nats,
    "visual": lambda track: track.visual,
    "original": lambda track: track.original,
    "reinserted": lambda track: track.reinserted,
}
"""What is drawn against position."""


def summarise(looking: Sequence[Track], text: Sequence[Track]) -> dict[str, Any]:
    """Everything about dilution that `look-again analyze dilution` writes, from the same answers under both policies.

    `looking`: as they were written, with insertions. `text`: the same text with nothing put back.
    """
    width = bin_width([len(track.share) for track in looking])
    return {
        "answers": len(looking),
        "looked_again": sum(track.look is not None for track in looking),
        "tokens_per_point": width,
        "with": _against_position(looking, width),
        "without": _against_position(text, width),
        "around_first_look": {
            "with": _around_look(looking, looking),
            "without": _around_look(text, looking),
            "tokens_before": BEFORE_TOKENS,
            "tokens_after": AFTER_TOKENS,
        },
        "after_first_look": {"with": _after_look(looking, looking), "without": _after_look(text, looking)},
        "theorem_3_2": _theorem(looking),
    }


def _against_position(tracks: Sequence[Track], width: int) -> dict[str, Any]:
    curves: dict[str, Any] = {
        name: binned([value(track) for track in tracks], width).as_dict() for name, value in VALUES.items()
    }
    depth = tracks[0].per_layer.shape[0]
    curves["per_layer"] = [binned([t.per_layer[layer] for t in tracks], width).mean for layer in range(depth)]
    return curves


def _around_look(tracks: Sequence[Track], looking: Sequence[Track]) -> dict[str, Any]:
    """Curves around the token at which `looking` first looks again, for the same token of `tracks`."""
    pairs = [(track, other.look) for track, other in zip(tracks, looking, strict=True) if other.look is not None]

    def curve(value: Callable[[Track], np.ndarray]) -> Curve:
        return aligned([(value(track), look) for track, look in pairs], BEFORE_TOKENS, AFTER_TOKENS)

    return {name: curve(VALUES[name]).as_dict() for name in ("share", "visual", "original", "reinserted")}


def _after_look(tracks: Sequence[Track], looking: Sequence[Track]) -> dict[str, float | None]:
    """Means over all tokens from the first look on, each answer counted once; None if none looked again."""
    pairs = [(track, other.look) for track, other in zip(tracks, looking, strict=True) if other.look is not None]
    return {
        name: float(np.mean([VALUES[name](track)[look:].mean() for track, look in pairs])) if pairs else None
        for name in ("share", "visual", "original", "reinserted")
    }


def _theorem(tracks: Sequence[Track]) -> dict[str, Any]:
    """In how many insertions the visual share grew, as theorem 3.2 says, and by how much on average."""
    gains = [after - before for track in tracks for before, after in track.gains]
    return {
        "insertions": len(gains),
        "share_grew": sum(gain > 0 for gain in gains),
        "mean_gain": sum(gains) / len(gains) if gains else None,
    }
