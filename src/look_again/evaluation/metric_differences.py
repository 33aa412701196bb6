"""Paired differences of metrics that are no mean of points: POPE's F1, CHAIR_i and recall, MME's sums.

These are columns of the paper's tables, which prints them bare. Here a difference comes with a bootstrap 95% interval:
what was asked is drawn with replacement, and both runs' metrics are computed from the same draw. POPE and CHAIR are
drawn by item (POPE's within each split), MME by image (both of its questions) within each subtask, as its accuracy+
is about images. There is no interval where a draw leaves a metric undefined, or of fewer than ten units.

Legend: N draws, U units that are drawn as one, F features that metrics are made of.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from look_again.evaluation.benchmarks.mme import PARTS
from look_again.scoring.statistics import MIN_VALUES

RESAMPLES = 2_000
_DRAWN_AT_ONCE = 4_000_000  # numbers, some 32 MB

ResultItem = Mapping[str, Any]  # of a run's result.json
Sums = Mapping[str, np.ndarray]  # feature -> its sum over the units of each draw (N,); 0 of one that nothing has


@dataclass(frozen=True, kw_only=True)
class Metric:
    """features: of a unit's items, what is summed over units. value: sums -> the metric (N,), nan where undefined.

    unit: the key of what is drawn as one. stratum: units are drawn within theirs, so that none is ever empty.
    """

    features: Callable[[Sequence[ResultItem]], Mapping[str, float]]
    value: Callable[[Sums], np.ndarray]
    unit: Callable[[ResultItem], str] = lambda item: item["id"]
    stratum: Callable[[ResultItem], str] = lambda item: ""


def metric_differences(
    benchmark: str, base: Sequence[ResultItem], other: Sequence[ResultItem], seed: int = 0
) -> dict[str, Any]:
    """Of each metric of this benchmark that is no mean: base, other, difference (other - base), interval, units.

    Items that one of the runs could not ask are left out of both. Empty for other benchmarks. The runs are over the
    same items, in any order.
    """
    theirs = {item["id"]: item for item in other}
    pairs = [(item, theirs[item["id"]]) for item in base]
    asked = [(a, b) for a, b in pairs if a["official"] is not None and b["official"] is not None]
    made = {name: _difference(metric, asked, seed) for name, metric in METRICS.get(benchmark, {}).items() if asked}
    return {name: one for name, one in made.items() if one["difference"] is not None}


def metric_value(metric: Metric, items: Sequence[ResultItem]) -> float:
    """The metric of all items, each once; nan where it is undefined."""
    return _Table.of(metric, items).value


def metric_interval(
    metric: Metric, items: Sequence[ResultItem], seed: int = 0
) -> tuple[float | None, list[float] | None]:
    """A metric of items that were asked, and its bootstrap interval; None where it, or that of a draw, is undefined."""
    table = _Table.of(metric, items)
    values = [table.drawn(counts) for counts in _draws(table.strata, seed)]
    return _number(table.value), _interval(np.concatenate(values), len(table.features))


def _difference(metric: Metric, pairs: Sequence[tuple[ResultItem, ResultItem]], seed: int) -> dict[str, Any]:
    base, other = (_Table.of(metric, items) for items in zip(*pairs, strict=True))
    gaps = [other.drawn(counts) - base.drawn(counts) for counts in _draws(base.strata, seed)]
    return {
        "base": _number(base.value),
        "other": _number(other.value),
        "difference": _number(other.value - base.value),
        "interval": _interval(np.concatenate(gaps), len(base.features)),
        "units": len(base.features),
    }


@dataclass(frozen=True)
class _Table:
    """What a metric is made of: features (U, F) by name, and which units each stratum has."""

    metric: Metric
    features: np.ndarray
    names: Sequence[str]
    strata: Sequence[np.ndarray]

    @classmethod
    def of(cls, metric: Metric, items: Sequence[ResultItem]) -> _Table:
        units: dict[str, list[ResultItem]] = defaultdict(list)
        for item in items:
            units[metric.unit(item)].append(item)
        strata: dict[str, list[int]] = defaultdict(list)
        for index, unit in enumerate(units.values()):
            strata[metric.stratum(unit[0])].append(index)
        rows = [metric.features(unit) for unit in units.values()]
        names = sorted({name for row in rows for name in row})
        features = np.array([[row.get(name, 0.0) for name in names] for row in rows], dtype=np.float64)
        return cls(metric, features, names, [np.array(members) for members in strata.values()])

    @property
    def value(self) -> float:
        """Of every unit, each once; nan where it is undefined."""
        return float(self.drawn(np.ones((1, len(self.features))))[0])

    def drawn(self, counts: np.ndarray) -> np.ndarray:
        """The metric (N,) of draws that hold each unit so often, (N, U)."""
        return self.metric.value(_sums(counts @ self.features, self.names))


def _draws(strata: Sequence[np.ndarray], seed: int) -> Iterator[np.ndarray]:
    """How often each unit was drawn, (N, U), a part of all draws at a time."""
    generator, units = np.random.default_rng(seed), sum(map(len, strata))
    at_once = max(1, _DRAWN_AT_ONCE // units)
    for start in range(0, RESAMPLES, at_once):
        n = min(at_once, RESAMPLES - start)
        drawn = np.zeros((n, units))
        for members in strata:
            drawn[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), size=n)
        yield drawn


def _interval(values: np.ndarray, units: int) -> list[float] | None:
    if units < MIN_VALUES or np.isnan(values).any():
        return None
    return [float(end) for end in np.quantile(values, [0.025, 0.975])]


def _sums(totals: np.ndarray, names: Sequence[str]) -> Sums:
    zero = np.zeros(len(totals))
    return defaultdict(lambda: zero, {name: totals[:, index] for index, name in enumerate(names)})


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return part / whole


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def _pope_features(unit: Sequence[ResultItem]) -> dict[str, float]:
    [item] = unit
    kind, true, said = (
        item["facts"]["category"],
        item["reference"] == "yes",
        item["score_facts"]["official_answer"] == "yes",
    )
    return {f"{kind}/right": float(true and said), f"{kind}/yes": float(true) + float(said)}


def _f1(sums: Sums) -> np.ndarray:
    kinds = sorted({name.partition("/")[0] for name in sums})
    found = np.array([_share(2 * sums[f"{kind}/right"], sums[f"{kind}/yes"]) for kind in kinds])
    return _share(np.nansum(found, axis=0), np.sum(~np.isnan(found), axis=0))  # of the splits where it is defined


def chair_metrics(prefix: str = "") -> dict[str, Metric]:
    """CHAIR_i and recall: of what is scored, or with prefix "whole_" of all that was said."""

    def features(unit: Sequence[ResultItem]) -> dict[str, float]:
        [item] = unit
        mentions, wrong, found, true = (
            item["score_facts"][f"{prefix}{name}"] for name in ("mentions", "hallucinations", "found", "true")
        )
        return {"mentions": len(mentions), "hallucinations": len(wrong), "found": found, "true": true}

    return {
        "chair_i": Metric(features=features, value=lambda sums: _share(sums["hallucinations"], sums["mentions"])),
        "recall": Metric(features=features, value=lambda sums: _share(sums["found"], sums["true"])),
    }


def _mme_features(unit: Sequence[ResultItem]) -> dict[str, float]:
    subtask, right = unit[0]["facts"]["subtask"], sum(item["official"] == 1 for item in unit)
    made = {"asked": len(unit), "right": right}
    if len(unit) == 2:
        made |= {"pairs": 1, "both": int(right == 2)}
    return {f"{subtask}/{name}": float(value) for name, value in made.items()}


def _mme_sum(parts: Sequence[str]) -> Callable[[Sums], np.ndarray]:
    members = [subtask for part in parts for subtask in PARTS[part]]

    def value(sums: Sums) -> np.ndarray:
        asked = [subtask for subtask in members if f"{subtask}/pairs" in sums]
        scores = [
            _share(sums[f"{one}/right"], sums[f"{one}/asked"]) + _share(sums[f"{one}/both"], sums[f"{one}/pairs"])
            for one in asked
        ]
        return 100 * np.sum(scores, axis=0) if scores else np.full(1, np.nan)

    return value


def _mme(*parts: str) -> Metric:
    return Metric(
        features=_mme_features,
        value=_mme_sum(parts),
        unit=lambda item: f"{item['facts']['subtask']}/{item['facts']['image_id']}",
        stratum=lambda item: item["facts"]["subtask"],
    )


METRICS: Mapping[str, Mapping[str, Metric]] = {
    "pope": {"f1": Metric(features=_pope_features, value=_f1, stratum=lambda item: item["facts"]["category"])},
    "chair": chair_metrics(),
    "mme": {"total": _mme(*PARTS), "perception": _mme("perception"), "cognition": _mme("cognition")},
}
"""Benchmark -> its metrics that are no mean of points."""
