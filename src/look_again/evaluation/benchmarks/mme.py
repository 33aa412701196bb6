"""MME: yes or no, asked twice of every image, once with each answer, in 14 subtasks (Fu et al., 2023).

A subtask scores 100 x accuracy over questions + 100 x accuracy+ over images, the share with both questions right; ten
subtasks sum up to perception, four to cognition, at most 2000 and 800. The paper reports the sum of all.

The official rule looks for "yes", then for "no", in the first four characters, so "Not sure" is a no; anything else is
wrong. The strict score reads the reply as the accuracy reward does. An image of which only one question was asked has
an accuracy and no accuracy+, and is counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from look_again.evaluation.benchmark import Benchmark, Item, ItemScore, Judge, Reply, Scores
from look_again.evaluation.benchmarks.image_folders import share, yes_no_score
from look_again.evaluation.benchmarks.mme_files import HUB, PART_OF, PARTS, SPLITS, load

NOTES = {
    "official": 'MME calculation.py: "yes", else "no", in the first four characters of the reply; none is wrong',
    "strict": "a yes or no as look_again.scoring.extraction reads it; an unread reply is wrong",
    "score": "100 x accuracy + 100 x accuracy+ per subtask; perception, cognition and total are sums of these",
}

Metrics = dict[str, float | int | None]
Asked = Sequence[tuple[Item, ItemScore]]


def official_reading(text: str) -> str | None:
    """ "yes", "no", or None for a reply that the official rule cannot read.

    Example: "Yes, it is." is yes, "Not sure" is no, "It is." is None.
    """
    start = text.strip().lower()[:4]
    return next((answer for answer in ("yes", "no") if answer in start), None)


def score(items: Sequence[Item], replies: Sequence[Reply], judge: Judge | None = None) -> Scores:
    """Per subtask, and the sums over the subtasks that were asked; `notes` names those that were not."""
    scores = [
        yes_no_score(item.reference, reply.final, official_reading(reply.final))
        for item, reply in zip(items, replies, strict=True)
    ]
    asked: dict[str, list[tuple[Item, ItemScore]]] = defaultdict(list)
    for item, one in zip(items, scores, strict=True):
        asked[item.facts["subtask"]].append((item, one))
    subtasks = {subtask: summarise(asked[subtask]) for subtask in PART_OF if subtask in asked}
    counted = ("items", "unparsed", "official_unparsed", "incomplete_pairs")
    counts: Metrics = {name: sum(metrics[name] or 0 for metrics in subtasks.values()) for name in counted}
    missing = [subtask for subtask in PART_OF if subtask not in subtasks]
    return Scores(
        items=scores,
        metrics=_sums(subtasks) | counts | {"subtasks": len(subtasks)},
        subsets={f"subtask/{subtask}": metrics for subtask, metrics in subtasks.items()},
        notes=NOTES | {"not_asked": ", ".join(missing) or "no subtask"},
    )


def summarise(asked: Asked) -> Metrics:
    """One subtask: accuracy and accuracy_plus (shares), score (of 200), the same strictly, and counts.

    None where nothing, or no image with both its questions, was asked.
    """
    pairs: dict[str, list[ItemScore]] = defaultdict(list)
    for item, one in asked:
        pairs[item.facts["picture"]].append(one)
    complete = [pair for pair in pairs.values() if len(pair) == 2]
    scores = [one for _, one in asked]
    counts: Metrics = {
        "items": len(scores),
        "unparsed": sum(one.unparsed for one in scores),
        "official_unparsed": sum(one.facts["official_answer"] is None for one in scores),
        "incomplete_pairs": len(pairs) - len(complete),
    }
    strict = _points(scores, complete, lambda one: one.strict == 1)
    official = _points(scores, complete, lambda one: one.official == 1)
    return official | {f"strict_{name}": value for name, value in strict.items()} | counts


def _points(
    scores: Sequence[ItemScore], pairs: Sequence[Sequence[ItemScore]], right: Callable[[ItemScore], bool]
) -> Metrics:
    accuracy = share(sum(map(right, scores)), len(scores))
    plus = share(sum(all(map(right, pair)) for pair in pairs), len(pairs))
    points = None if accuracy is None or plus is None else 100 * accuracy + 100 * plus
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": points}


def _sums(subtasks: Mapping[str, Metrics]) -> Metrics:
    """perception, cognition and total, each also strict; None where no subtask of them has a score."""
    sums: Metrics = {}
    for prefix in ("", "strict_"):
        for name, members in {"total": PART_OF, **PARTS}.items():
            found = [subtasks[subtask][f"{prefix}score"] for subtask in members if subtask in subtasks]
            points = [value for value in found if value is not None]
            sums[f"{prefix}{name}"] = sum(points) if points else None
    return sums


MME = Benchmark(name="mme", hub=HUB, splits=SPLITS, load=load, score=score, primary="total")
