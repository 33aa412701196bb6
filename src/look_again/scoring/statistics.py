"""Intervals and tests, so that no number stands alone.

The paper prints bare numbers; these are the textbook methods, each exact or seeded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

Z_95 = 1.959963984540054
RESAMPLES = 10_000
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
