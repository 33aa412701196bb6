"""Hallucination and recall of lists of objects against generated length on Tabletop (figure 1's counterpart).

The paper describes 500 photographs and finds more hallucinated and fewer recalled objects in longer descriptions. Here
a list is a section of an answer (CAPTION, the last REFLECTION), and its length is the number of tokens generated up to
its end, since that is what dilutes the image. On Tabletop this number grows with the objects on the table, too: what
is shown is a measurement, not a controlled comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from look_again.analysis.measured_answers import AnswerSection
from look_again.scoring.statistics import wilson_interval
from look_again.tabletop.seeing import listed
from look_again.tabletop.tabletop_benchmark import list_quality

BINS = 4


def against_length(lists: Sequence[AnswerSection], bins: int = BINS) -> list[dict[str, Any]]:
    """Bins of equally many lists by `tokens`, each with `summary`; fewer bins where there are fewer lists."""
    ordered = sorted(lists, key=lambda section: section.tokens)
    edges = [round(i * len(ordered) / bins) for i in range(bins + 1)]
    return [summary(ordered[low:high]) for low, high in itertools.pairwise(edges) if high > low]


def summary(lists: Sequence[AnswerSection]) -> dict[str, Any]:
    """Range and mean of tokens, share of listed objects that are hallucinated, share of real ones recalled.

    With Wilson's 95% intervals over objects. `empty` counts lists of nothing; a share of nothing is None.
    """
    quality = list_quality([(section.truth, section.text) for section in lists])
    named = sum(len(listed(section.text)) for section in lists)
    real = sum(len(section.truth.things) for section in lists)
    lengths = [section.tokens for section in lists]
    return {
        "n": len(lists),
        "tokens": sum(lengths) / len(lists),
        "tokens_from": min(lengths),
        "tokens_to": max(lengths),
        **quality,
        "listed": named,
        "real": real,
        "hallucinated_interval": wilson_interval(round((quality["hallucinated"] or 0) * named), named),
        "recall_interval": wilson_interval(round((quality["recall"] or 0) * real), real),
    }
