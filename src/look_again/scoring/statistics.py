"""Intervals and tests, so that no number stands alone.

The paper prints bare numbers; these are the textbook methods, each exact or seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 10_000
POWER = 0.8
MIN_VALUES = 10  # of fewer a bootstrap says nothing
_DRAWN_AT_ONCE = 4_000_000  # numbers, some 32 MB


def wilson_interval(hits: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a share, 95% by default; (0, 1) when nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    share = hits / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def paired_interval(higher: int, lower: int, n: int, z: float = Z_95) -> tuple[float, float]:
    """Score interval of the difference of two shares over the same n items, 95% by default (Tango, 1998).

    higher, lower: items right in the other run alone, and in the base run alone. The interval holds the differences
    that the score test does not reject; with no such items it is (-z^2 / (n + z^2), z^2 / (n + z^2)), not a point.
    ValueError for no items. Example: 7 against 2 of 50 give (-0.021, 0.231).
    """
    if n < 1:
        raise ValueError("an interval of no values was asked for")
    ends = (_crossing(higher, lower, n, z), _crossing(higher, lower, n, -z))
    return max(-1.0, ends[0]), min(1.0, ends[1])


def _crossing(higher: int, lower: int, n: int, level: float) -> float:
    """The difference at which the score statistic, which falls, passes `level`; by bisection."""
    low, high = -1.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if _score_statistic(higher, lower, n, middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score_statistic(higher: int, lower: int, n: int, difference: float) -> float:
    """The observed difference less `difference`, over its standard error if that were the true one."""
    a, b = 2 * n, -higher - lower + (2 * n - higher + lower) * difference
    c = -lower * difference * (1 - difference)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (
        2 * a
    )  # of items right in the base run alone, at most likely
    variance = n * (2 * share + difference * (1 - difference))
    gap = higher - lower - n * difference
    return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0


def detectable_difference(n: int, discordant: float, *, power: float = POWER) -> float | None:
    """The smallest true difference of two shares over n pairs that McNemar's test finds with this power at 5%.

    discordant: share of pairs in which the runs differ. By the normal approximation of Connor (1987); None where even
    the largest difference, `discordant`, is not found.
    """
    if n < 1 or discordant <= 0 or _power(n, discordant, discordant) < power:
        return None
    low, high = 0.0, discordant
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (low, middle) if _power(n, discordant, middle) >= power else (middle, high)
    return high


def _power(n: int, discordant: float, difference: float) -> float:
    spread = math.sqrt(max(discordant - difference**2, 1e-12))
    return NormalDist().cdf((difference * math.sqrt(n) - Z_95 * math.sqrt(discordant)) / spread)


def bootstrap_interval(
    values: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of `values` (n,): `resamples` draws of n with replacement.

    A draw is made as counts of each distinct value, which has the same distribution and is fast, since scores take few
    values. Where all values are equal it is that point, which says nothing of how sure one can be. ValueError for none.
    """
    if not len(values):
        raise ValueError("an interval of no values was asked for")
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    n, generator, means = len(values), np.random.default_rng(seed), []
    at_once = max(1, _DRAWN_AT_ONCE // len(distinct))
    for start in range(0, resamples, at_once):
        drawn = generator.multinomial(n, counts / n, size=min(at_once, resamples - start))
        means.append(drawn @ distinct / n)
    low, high = np.quantile(np.concatenate(means), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def sign_test(plus: int, minus: int) -> float:
    """Two-sided exact p of `plus` against `minus` under a fair coin; 1 where there is neither.

    Of pairs of right and wrong answers (right in the one run alone, right in the other alone) this is McNemar's exact
    test; of signs of differences it is the paired sign test. Example: 1 against 5: 2 (1 + 6) / 64 = 0.21875.
    """
    n, term, total = plus + minus, 1, 0
    for k in range(min(plus, minus) + 1):
        total += term
        term = term * (n - k) // (k + 1)
    return min(1.0, (2 * total) / 2**n)  # integers of any size: Python divides them exactly
