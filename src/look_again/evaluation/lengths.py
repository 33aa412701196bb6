"""CHAIR_i and recall against generated length: the counterpart of the paper's figure 1, from any CHAIR run.

The paper shows 500 images and does not say how lengths were grouped. Here answers are sorted by the tokens that
were generated, cut into groups of equal size, and all that an answer says is judged, whatever its section. Longer
answers are to other images than shorter ones: a measurement, not a controlled comparison.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from look_again.evaluation.metric_differences import chair_metrics, metric_interval
from look_again.scoring.statistics import MIN_VALUES

GROUPS = 5
METRICS = chair_metrics("whole_")

BenchmarkItem = Mapping[str, Any]  # of a run's result.json


def against_length(items: Sequence[BenchmarkItem], groups: int = GROUPS) -> list[dict[str, Any]]:
    """Per group: n, mean, least and most tokens, and of chair_i and recall [value, its bootstrap 95% interval].

    Empty for runs that judged no captions, or tell of no tokens. Fewer groups where they would hold too few answers.
    """
    judged = [item for item in items if item["official"] is not None and "whole_mentions" in item["score_facts"]]
    ordered = sorted(filter(_tokens, judged), key=_tokens)
    count = min(groups, max(1, len(ordered) // MIN_VALUES)) if ordered else 0
    edges = [round(i * len(ordered) / count) for i in range(count + 1)] if count else []
    return [_summary(ordered[low:high]) for low, high in itertools.pairwise(edges)]


def _summary(group: Sequence[BenchmarkItem]) -> dict[str, Any]:
    tokens = list(map(_tokens, group))
    made = {name: metric_interval(metric, group) for name, metric in METRICS.items()}
    ends = {"tokens_from": tokens[0], "tokens_to": tokens[-1]}
    return {"n": len(group), "tokens": sum(tokens) / len(tokens), **ends, **made}


def _tokens(item: BenchmarkItem) -> int:
    return int(item["tokens"].get("sampled") or 0)
