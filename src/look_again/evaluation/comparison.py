"""Paired differences between runs over the same items, with intervals and exact tests, whole and per subset.

The paper compares bare averages. Here every difference comes with a 95% interval: the score interval of paired shares
where scores are 0 or 1, else a bootstrap over items; and with McNemar's exact test, else the exact sign test. Items are
taken as independent, so where several share an image the interval is somewhat too narrow. Many subsets make a small p
somewhere likely; none is corrected.
Metrics that are no mean of points have their own intervals (`metric_differences`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from look_again.evaluation.metric_differences import metric_differences
from look_again.scoring.statistics import (
    MIN_VALUES,
    RESAMPLES,
    bootstrap_interval,
    detectable_difference,
    paired_interval,
    sign_test,
    wilson_interval,
)

Result = Mapping[str, Any]  # what a run's result.json holds


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Of one run from another, over paired items: means, their difference (other - base) and its 95% interval.

    n: pairs; undefined: items left out because one of the runs has no such score. interval: None of fewer than 10
    pairs, and of scores other than 0 and 1 where fewer than 10 pairs differ, of which a bootstrap says nothing.
    detectable: of scores 0 and 1, the smallest difference that so many pairs, of which so many differ, show at 5% in
    four comparisons of five; None where none is shown so often. higher, lower: pairs in which the other run scores
    more, or less. test: "mcnemar" or "sign"; p is two-sided. All None without pairs.
    """

    n: int
    undefined: int
    base: float | None = None
    other: float | None = None
    difference: float | None = None
    interval: tuple[float, float] | None = None
    detectable: float | None = None
    higher: int = 0
    lower: int = 0
    test: str | None = None
    p: float | None = None


def paired_difference(base: Sequence[float | None], other: Sequence[float | None], *, seed: int = 0) -> Difference:
    """`other` minus `base`, paired item by item, (n,) each; None where an item has no score."""
    pairs = [(a, b) for a, b in zip(base, other, strict=True) if a is not None and b is not None]
    undefined = len(base) - len(pairs)
    if not pairs:
        return Difference(n=0, undefined=undefined)
    gaps = [b - a for a, b in pairs]
    higher, lower = sum(gap > 0 for gap in gaps), sum(gap < 0 for gap in gaps)
    binary = {value for pair in pairs for value in pair} <= {0, 1}
    return Difference(
        n=len(pairs),
        undefined=undefined,
        base=sum(a for a, _ in pairs) / len(pairs),
        other=sum(b for _, b in pairs) / len(pairs),
        difference=sum(gaps) / len(pairs),
        interval=_paired_interval(gaps, higher, lower, binary, seed),
        detectable=detectable_difference(len(pairs), (higher + lower) / len(pairs)) if binary else None,
        higher=higher,
        lower=lower,
        test="mcnemar" if binary else "sign",
        p=sign_test(higher, lower),
    )


def _paired_interval(
    gaps: Sequence[float], higher: int, lower: int, binary: bool, seed: int
) -> tuple[float, float] | None:
    if len(gaps) < MIN_VALUES or (not binary and higher + lower < MIN_VALUES):
        return None
    return paired_interval(higher, lower, len(gaps)) if binary else bootstrap_interval(gaps, seed=seed)


def mean_interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float] | None:
    """95% interval of a mean: Wilson's where all values are 0 or 1, else a bootstrap; None of fewer than 10 values."""
    if len(values) < MIN_VALUES:
        return None
    if set(values) <= {0, 1}:
        return wilson_interval(round(sum(values)), len(values))
    return bootstrap_interval(values, seed=seed)


def compare(results: Mapping[str, Result], *, score: str | None = None, seed: int = 0) -> dict[str, Any]:
    """The JSON of `look-again compare`: every later run against the first, whole and per subset.

    results: name -> result of a run. score: "official", "strict" or a fact of the items' scores; None is what the
    benchmark pairs. ValueError for fewer than two runs, another benchmark, other items, or an unknown score.
    """
    if len(results) < 2:
        raise ValueError(f"a comparison takes at least two runs, not {len(results)}")
    (base_name, base), *others = results.items()
    for name, result in others:
        check_same_items(base_name, base, name, result)
    field = score or base["paired"]
    subsets = subset_members(base)
    rows = [row for name, result in others for row in _rows(name, base, result, subsets, field, seed)]
    runs = {
        name: {"primary": result["metrics"].get(base["primary"]), "counts": result["counts"]}
        for name, result in results.items()
    }
    return {
        "benchmark": base["benchmark"],
        "baseline": base_name,
        "primary": base["primary"],
        "score": field,
        "seed": seed,
        "resamples": RESAMPLES,
        "runs": runs,
        "differences": rows,
        "metrics": [
            {"run": name, "metric": metric} | made
            for name, result in others
            for metric, made in metric_differences(base["benchmark"], base["items"], result["items"], seed).items()
        ],
        "ungrouped_subsets": [name for name in base["subsets"] if name not in subsets],
    }


def check_same_items(base_name: str, base: Result, name: str, result: Result) -> None:
    """ValueError, saying how many items differ, unless both runs are over the same items of one benchmark."""
    if base["benchmark"] != result["benchmark"]:
        raise ValueError(f"{name} is a run on {result['benchmark']}, {base_name} on {base['benchmark']}")
    one, other = ({item["id"]: item["digest"] for item in run["items"]} for run in (base, result))
    differing = sorted(id for id in one.keys() | other.keys() if one.get(id) != other.get(id))
    if differing:
        raise ValueError(
            f"{base_name} and {name} are not over the same items: {len(differing)} of {len(one.keys() | other.keys())} "
            f"differ (first: {differing[0]!r}); run both on the same split and limit"
        )


def paired_scores(result: Result, field: str) -> list[float | None]:
    """One score per item, in the order of the run: "official", "strict" or a fact. ValueError for an unknown one."""
    values: list[float | None] = []
    for item in result["items"]:
        if field not in ("official", "strict") and field not in item["score_facts"]:
            raise ValueError(f"item {item['id']!r} has no score {field!r}; known: official, strict, {known(item)}")
        value = item[field] if field in ("official", "strict") else item["score_facts"][field]
        if value is not None and not isinstance(value, int | float):
            raise ValueError(f"the score {field!r} of item {item['id']!r} is no number: {value!r}")
        values.append(None if value is None else float(value))
    return values


def known(item: Mapping[str, Any]) -> str:
    """The facts of an item's score that are numbers, in words."""
    return ", ".join(name for name, value in item["score_facts"].items() if isinstance(value, int | float)) or "none"


def subset_members(result: Result) -> dict[str, list[int]]:
    """Which items make up each of the run's subsets: those with a fact of that value ("art", "category=art").

    A subset that no fact accounts for is left out.
    """
    members: dict[str, list[int]] = {name: [] for name in result["subsets"]}
    for index, item in enumerate(result["items"]):
        for name in {form for fact in item["facts"].items() for form in _forms(*fact)} & members.keys():
            members[name].append(index)
    return {name: indices for name, indices in members.items() if indices}


def _forms(fact: str, value: object) -> list[str]:
    """The names that a subset of items with this fact may have."""
    if not isinstance(value, str | int):
        return []
    return [str(value), *(f"{fact}{sign}{value}" for sign in ("=", ":", ": ", "/"))]


def _rows(
    name: str, base: Result, other: Result, subsets: Mapping[str, Sequence[int]], field: str, seed: int
) -> list[dict[str, Any]]:
    """The differences of one run from the base: whole (subset None), then per subset."""
    ours = paired_scores(base, field)
    by_id = dict(zip((item["id"] for item in other["items"]), paired_scores(other, field), strict=True))
    theirs = [by_id[item["id"]] for item in base["items"]]
    parts: list[tuple[str | None, Sequence[int]]] = [(None, range(len(ours))), *subsets.items()]
    return [
        {"run": name, "subset": subset}
        | asdict(paired_difference([ours[i] for i in members], [theirs[i] for i in members], seed=seed))
        for subset, members in parts
    ]
