"""Intervals and power of studies, by hand and against simulations."""

from __future__ import annotations

import numpy as np
import pytest

from look_again.study.paired import Points, detectable_share, share_difference, share_interval


def test_a_share_is_points_by_possible_points():
    """Items with more mistakes weigh more: 1 of 1 and 1 of 3 are 2 of 4, not the mean of 1 and a third."""
    assert Points([1, 1], [1, 3]).share == 0.5
    made = share_difference([Points([0] * 20, [1, 3] * 10)], [Points([1, 1] * 10, [1, 3] * 10)])
    assert (made.base, made.other, made.difference, made.n, made.seeds) == (0, 0.5, 0.5, 20, 1)


def test_items_that_are_not_the_same_are_refused():
    with pytest.raises(ValueError, match="the same items"):
        share_difference([Points([1], [1])], [Points([1], [2])])


def test_few_items_have_no_interval():
    made = share_difference([Points([0, 1], [1, 1])], [Points([1, 1], [1, 1])])
    assert made.interval is None
    assert share_interval([Points([0, 1], [1, 1])]) is None


def test_intervals_hold_the_truth_as_often_as_they_say():
    """200 studies of 60 items with a true difference of 0.2: some 95% of the intervals hold it."""
    random, held = np.random.default_rng(1), 0
    for study in range(200):
        base, other = (random.random(60) < 0.5).astype(float), (random.random(60) < 0.7).astype(float)
        made = share_difference([Points(list(base), [1.0] * 60)], [Points(list(other), [1.0] * 60)], seed=study)
        held += made.interval[0] <= 0.2 <= made.interval[1]
    assert 0.90 <= held / 200 <= 0.99


def test_seeds_that_differ_widen_the_interval():
    """Two seeds with opposite effects: resampling items alone would call their mean sure."""
    low, high = Points([0.0] * 50, [1.0] * 50), Points([1.0] * 50, [1.0] * 50)
    made = share_difference([low, high], [high, low])
    assert made.difference == 0
    assert made.interval == (-1.0, 1.0)


def test_the_detectable_difference_is_found_four_times_in_five():
    """A paired test of items of that deviation, simulated: the power that the figure promises."""
    assert round(detectable_share(300, 0.5), 3) == 0.081
    random, n, found = np.random.default_rng(2), 100, 0
    size = detectable_share(n, 0.5)
    for _ in range(1000):
        gaps = random.normal(size, 0.5, n)
        found += abs(gaps.mean()) / (gaps.std(ddof=1) / np.sqrt(n)) > 1.96
    assert 0.75 <= found / 1000 <= 0.85
