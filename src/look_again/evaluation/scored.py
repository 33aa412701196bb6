"""Scores of a whole run: items that could not be asked, or that no judge rated, are nobody's points.

The paper tells of no failures. An item without an answer is no empty answer, which some official rules reward (in POPE
silence is a yes, in CHAIR it is free of hallucination). So official metrics are of the items that were asked, while the
strict ones count those that were not as wrong, and comparisons leave them out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, ItemScore, Judge, Scores
from look_again.evaluation.run_folder import remembered
from look_again.evaluation.subjects import Output

NOTE = "official metrics leave out items that could not be asked, strict ones count them as wrong"

Metrics = Mapping[str, float | int | None]


def score_run(
    benchmark: Benchmark, items: Sequence[BenchmarkItem], outputs: Sequence[Output], judge: Judge | None, judged: Path
) -> Scores:
    """The scores of every item, and the metrics of the run. judged: the file that keeps what the judge says.

    An item with an error has no points and every fact None. Metrics with "strict" in their name are those of the whole
    set, an item with an error being an empty answer; all others are of the items without one, None if there are none.
    """
    asked = [index for index, output in enumerate(outputs) if output.error is None]
    found = None
    if asked:
        replies = [outputs[index].reply for index in asked]
        found = benchmark.score([items[i] for i in asked], replies, remembered(judge, judged) if judge else None)
    if found is not None and len(asked) == len(items):
        return found
    replay = remembered(_asks_no_more, judged) if judge else None
    whole = benchmark.score(items, [output.reply for output in outputs], replay)
    return _merged(whole, found, asked)


def _asks_no_more(prompt: str) -> str:
    """The judge of the second scoring, which has the first one's replies alone."""
    raise OSError("an item that could not be asked is not judged")


def _merged(whole: Scores, found: Scores | None, asked: Sequence[int]) -> Scores:
    """Scores of all items, of which `found` knows those `asked`."""
    items = [ItemScore(facts=dict.fromkeys(score.facts)) for score in whole.items]
    subsets = {} if found is None else found.subsets
    for index, score in zip(asked, () if found is None else found.items, strict=True):
        items[index] = score
    return Scores(
        items=items,
        metrics=_metrics(whole.metrics, {} if found is None else found.metrics),
        subsets={name: _metrics(metrics, subsets.get(name, {})) for name, metrics in whole.subsets.items()},
        notes={**(whole if found is None else found).notes, "errors": NOTE},
    )


def _metrics(whole: Metrics, asked: Metrics) -> Metrics:
    return {name: value if "strict" in name else asked.get(name) for name, value in whole.items()}


def list_warnings(result: Mapping[str, Any]) -> list[str]:
    """In words, how many items of a run have no answer or no rating, with the first one's reason."""
    kinds = (("errors", "could not be asked, and are by the same command again"), ("unjudged", "were not judged"))
    return [
        f"{len(lines)} of {result['counts']['items']} items of {result['benchmark']} {what} "
        f"(the first, {lines[0]['id']}: {lines[0]['reason']})"
        for name, what in kinds
        if (lines := result["lists"][name])
    ]


def nothing_scored(result: Mapping[str, Any]) -> bool:
    """Whether every item is without an answer or without a rating."""
    lists = result["lists"]
    return len(lists["errors"]) + len(lists["unjudged"]) == result["counts"]["items"]
