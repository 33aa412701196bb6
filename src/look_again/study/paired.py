"""Paired differences of shares over items and seeds, and what difference so many items can find.

The share of planted mistakes that are mended is a ratio of sums: items have different numbers of mistakes. A 95%
interval resamples seeds (of a training recipe) and items, both with replacement, the same draw for both arms and, since
all seeds answer the same items, the same items for all seeds. With one model only items are resampled, and the interval
says nothing about other trainings; with two or three it knows little of how trainings vary and is too narrow.

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
    """other - base of two shares. n: items of every seed. interval: None where fewer than 10 items differ.

    detectable: the smallest true difference that so many items and seeds, as different from one another as these, show
    at 5% in four studies of five, and with which ten items differ in four of five, since without there is no interval;
    None where no two items differ and where no difference is that large.
    """

    n: int
    seeds: int
    base: float
    other: float
    difference: float
    interval: tuple[float, float] | None
    detectable: float | None


def share_interval(seeds: Sequence[Points], *, seed: int = 0) -> tuple[float, float] | None:
    """95% interval of one arm's share, seeds and items resampled; None for fewer than 10 items.

    ValueError where seeds have different items.
    """
    got, possible = _table(seeds)
    return _resampled_interval(got, possible, seed) if got.shape[1] >= MIN_VALUES else None


def share_difference(base: Sequence[Points], other: Sequence[Points], *, seed: int = 0) -> ShareDifference:
    """The difference of two arms over the same items, seed by seed. ValueError where the items are not the same."""
    if len(base) != len(other) or any(a.possible != b.possible for a, b in zip(base, other, strict=True)):
        raise ValueError("paired arms are over the same items and seeds")
    (before, possible), (after, _) = _table(base), _table(other)
    gaps = after - before
    differ = np.count_nonzero(gaps.any(axis=0))
    shares = [sum(points.share for points in arm) / len(arm) for arm in (base, other)]
    return ShareDifference(
        n=gaps.shape[1],
        seeds=len(base),
        base=shares[0],
        other=shares[1],
        difference=shares[1] - shares[0],
        interval=_resampled_interval(gaps, possible, seed) if differ >= MIN_VALUES else None,
        detectable=_detectable(gaps, possible),
    )


def detectable_share(n: int, deviation: float, *, power: float = POWER) -> float:
    """The smallest true mean difference that a paired test of n items finds with this power at 5%.

    deviation: standard deviation of the items' differences. By the normal approximation. Example: 300 items of
    deviation 0.5 find 0.081.
    """
    return (Z_95 + NormalDist().inv_cdf(power)) * deviation / math.sqrt(n)


def differing_share(n: int, *, power: float = POWER) -> float | None:
    """The least share of rows that has to differ for MIN_VALUES of n to differ with this power; None of fewer rows.

    Example: of 100 rows 0.125.
    """
    if n < MIN_VALUES:
        return None
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        fewer = sum(math.comb(n, k) * middle**k * (1 - middle) ** (n - k) for k in range(MIN_VALUES))
        low, high = (low, middle) if 1 - fewer >= power else (middle, high)
    return high


def _table(seeds: Sequence[Points]) -> tuple[np.ndarray, np.ndarray]:
    """What each seed got of each item and could get, (S, N) each. ValueError where seeds have different items."""
    if any(points.possible != seeds[0].possible for points in seeds):
        raise ValueError("seeds of a study are over the same items")
    return np.array([points.got for points in seeds], float), np.array([points.possible for points in seeds], float)


def _detectable(gaps: np.ndarray, possible: np.ndarray) -> float | None:
    """From the residuals of the ratio, (gap - difference x possible) by the mean of the possible points.

    Rows vary in their mean over seeds, and seeds in their mean over rows. Ten rows that differ, each as much as those
    that do, make a difference of their own.
    """
    seeds, n = gaps.shape
    residual = (gaps - gaps.sum() / possible.sum() * possible) / possible.mean()
    variance = float(residual.mean(axis=0).var(ddof=1)) if n > 1 else 0.0
    if seeds > 1:
        variance += n / seeds * float(residual.mean(axis=1).var(ddof=1))
    least = differing_share(n)
    if variance == 0 or least is None:
        return None
    each = float(np.abs(gaps[:, gaps.any(axis=0)]).mean() / possible.mean())
    found = max(detectable_share(n, math.sqrt(variance)), least * each)
    return found if found <= 1 else None


def _resampled_interval(got: np.ndarray, possible: np.ndarray, seed: int) -> tuple[float, float]:
    """Quantiles of the ratio of sums over resamples: how often each seed and each item is drawn, (R, S) and (R, N)."""
    generator, (seeds, items) = np.random.default_rng(seed), got.shape
    drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    counts = generator.multinomial(items, np.full(items, 1 / items), size=RESAMPLES)
    top, bottom = (((drawn @ points) * counts).sum(axis=1) for points in (got, possible))
    return _quantiles(top / bottom)


def _quantiles(values: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
