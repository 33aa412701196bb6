"""Hallucination and recall of lists of objects against generated length on Tabletop (figure 1's counterpart).

The paper describes 500 photographs and finds more hallucinated and fewer recalled objects in longer descriptions. Here
a list is a section of an answer (CAPTION, the last REFLECTION), and its length is the number of tokens generated up to
its end, since that is what dilutes the image. On Tabletop this number grows with the objects on the table, too: what
is shown is a measurement, not a controlled comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from look_again.scoring.statistics import wilson_interval
from look_again.tabletop.evaluate import list_quality
from look_again.tabletop.seeing import listed
from look_again.tabletop.world import Scene

BINS = 4


@dataclass(frozen=True)
class ObjectList:
    """One list: its text, and how many tokens were generated up to its end."""

    scene: Scene
    text: str
    tokens: int


def against_length(lists: Sequence[ObjectList], bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of equally many lists by `tokens`, each with `summary`; fewer bins where there are fewer lists."""
    ordered = sorted(lists, key=lambda one: one.tokens)
    edges = [round(i * len(ordered) / bins) for i in range(bins + 1)]
    return [summary(ordered[low:high]) for low, high in itertools.pairwise(edges) if high > low]


def summary(lists: Sequence[ObjectList]) -> dict[str, Any]:
    """Range and mean of tokens, share of listed objects that are hallucinated, share of real ones recalled.

    With Wilson's 95% intervals over objects. `empty` counts lists of nothing; a share of nothing is None.
    """
    quality = list_quality([(one.scene, one.text) for one in lists])
    said = sum(len(listed(one.text)) for one in lists)
    real = sum(len(one.scene.things) for one in lists)
    lengths = [one.tokens for one in lists]
    return {
        "n": len(lists),
        "tokens": sum(lengths) / len(lists),
        "tokens_from": min(lengths),
        "tokens_to": max(lengths),
        **quality,
        "listed": said,
        "real": real,
        "hallucinated_interval": wilson_interval(round((quality["hallucinated"] or 0) * said), said),
        "recall_interval": wilson_interval(round((quality["recall"] or 0) * real), real),
    }
