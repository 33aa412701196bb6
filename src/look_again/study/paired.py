"""Paired differences of shares over items and seeds, and what difference so many items can find.

The share of planted mistakes that are mended is a ratio of sums: items have different numbers of mistakes. A 95%
interval resamples seeds (of a training recipe) and within each the items, both with replacement, the same draw for both
arms; with one model only items are resampled, and the interval says nothing about other trainings.

Legend: S seeds, N items, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from look_again.scoring.statistics import MIN_VALUES, POWER, Z_95

RESAMPLES = 4_000


@dataclass(frozen=True)
class Points:
    """What one arm scored with one seed: points of each item out of its possible ones, (N,) each."""

    got: Sequence[float]
    possible: Sequence[float]

    @property
    def share(self) -> float:
        """Points by possible points of all items together."""
        return sum(self.got) / sum(self.possible)


@dataclass(frozen=True, kw_only=True)
class ShareDifference:
    """other - base of two shares. n: items per seed. interval: None where fewer than 10 items differ.

    detectable: the smallest true difference that so many items, as different from one another as these, show at 5% in
    four studies of five; None where no two items differ.
    """

    n: int
    seeds: int
    base: float
    other: float
    difference: float
    interval: tuple[float, float] | None
    detectable: float | None


def share_interval(seeds: Sequence[Points], *, seed: int = 0) -> tuple[float, float] | None:
    """95% interval of one arm's share, seeds and items resampled."""
    if min(len(points.got) for points in seeds) < MIN_VALUES:
        return None
    counts = _resampled(seeds, seed)
    return _quantiles(_ratio(counts, [points.got for points in seeds], seeds))


def share_difference(base: Sequence[Points], other: Sequence[Points], *, seed: int = 0) -> ShareDifference:
    """The difference of two arms over the same items, seed by seed. ValueError where the items are not the same."""
    if len(base) != len(other) or any(a.possible != b.possible for a, b in zip(base, other, strict=True)):
        raise ValueError("paired arms are over the same items and seeds")
    gaps = [np.subtract(b.got, a.got) for a, b in zip(base, other, strict=True)]
    interval = None
    if sum(map(np.count_nonzero, gaps)) >= MIN_VALUES:
        interval = _quantiles(_ratio(_resampled(base, seed), gaps, base))
    shares = [sum(points.share for points in arm) / len(arm) for arm in (base, other)]
    return ShareDifference(
        n=min(map(len, gaps)),
        seeds=len(base),
        base=shares[0],
        other=shares[1],
        difference=shares[1] - shares[0],
        interval=interval,
        detectable=_detectable(gaps, base),
    )


def detectable_share(n: int, deviation: float, *, power: float = POWER) -> float:
    """The smallest true mean difference that a paired test of n items finds with this power at 5%.

    deviation: standard deviation of the items' differences. By the normal approximation. Example: 300 items of
    deviation 0.5 find 0.081.
    """
    return (Z_95 + NormalDist().inv_cdf(power)) * deviation / math.sqrt(n)


def _detectable(gaps: Sequence[np.ndarray], base: Sequence[Points]) -> float | None:
    """From the residuals of the ratio: (gap - difference x possible) by the mean of the possible points."""
    gap, possible = np.concatenate(gaps), np.concatenate([points.possible for points in base])
    residual = (gap - gap.sum() / possible.sum() * possible) / possible.mean()
    deviation = float(residual.std(ddof=1)) if len(residual) > 1 else 0.0
    return detectable_share(len(residual), deviation) if deviation > 0 else None


def _resampled(seeds: Sequence[Points], seed: int) -> list[np.ndarray]:
    """How often each item of each seed is drawn: (R, N) per seed, 0 of a seed that a resample left out."""
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(seeds), np.full(len(seeds), 1 / len(seeds)), size=RESAMPLES)
    counts = []
    for place, points in enumerate(seeds):
        items = len(points.got)
        own = np.zeros((RESAMPLES, items))
        for times in range(1, len(seeds) + 1):
            rows = drawn[:, place] >= times
            own[rows] += generator.multinomial(items, np.full(items, 1 / items), size=int(rows.sum()))
        counts.append(own)
    return counts


def _ratio(
    counts: Sequence[np.ndarray], got: Sequence[Sequence[float] | np.ndarray], seeds: Sequence[Points]
) -> np.ndarray:
    top = sum(own @ np.asarray(points, dtype=float) for own, points in zip(counts, got, strict=True))
    bottom = sum(own @ np.asarray(points.possible, dtype=float) for own, points in zip(counts, seeds, strict=True))
    return np.asarray(top) / np.asarray(bottom)


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
