"""Intervals and power of studies, by hand and against simulations."""

from __future__ import annotations

import numpy as np
import pytest

from look_again.study.paired import Points, detectable_share, differing_share, share_difference, share_interval


def test_a_share_is_points_by_possible_points():
    """Items with more mistakes weigh more: 1 of 1 and 1 of 3 are 2 of 4, not the mean of 1 and a third."""
    assert Points([1, 1], [1, 3]).share == 0.5
    made = share_difference([Points([0] * 20, [1, 3] * 10)], [Points([1, 1] * 10, [1, 3] * 10)])
    assert (made.base, made.other, made.difference, made.n, made.seeds) == (0, 0.5, 0.5, 20, 1)


def test_items_that_are_not_the_same_are_refused():
    with pytest.raises(ValueError, match="the same items"):
        share_difference([Points([1], [1])], [Points([1], [2])])

    uneven = [Points([1], [1]), Points([1], [2])]
    with pytest.raises(ValueError, match="seeds of a study are over the same items"):
        share_difference(uneven, uneven)


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


def _crossed(random, seeds, items=60):
    """Normal gaps of deviation 0.5 without a true difference; nine tenths of the variance are the rows'."""
    own, rows = random.normal(0, 0.5 * 0.1**0.5, (seeds, items)), random.normal(0, 0.5 * 0.9**0.5, items)
    return [Points([0.0] * items, [1.0] * items)] * seeds, [Points(list(gap), [1.0] * items) for gap in own + rows]


def test_rows_that_seeds_share_are_drawn_for_all_seeds_at_once():
    """Drawn for each seed by itself, some 75 of 100 intervals would hold the truth."""
    random, held = np.random.default_rng(3), 0
    for study in range(200):
        low, high = share_difference(*_crossed(random, seeds=3), seed=study).interval
        held += low <= 0 <= high
    assert 0.90 <= held / 200 <= 0.99


def test_rows_that_differ_are_counted_once_for_all_seeds():
    """Five rows that differ with each of three seeds are five, of which there is no interval."""
    base, other = Points([0.0] * 50, [1.0] * 50), Points([1.0] * 5 + [0.0] * 45, [1.0] * 50)
    assert share_difference([base] * 3, [other] * 3).interval is None


def test_the_detectable_difference_knows_of_shared_rows_and_of_seeds():
    """60 rows of deviation 0.5 find 0.18, with however many seeds; seeds that differ find less."""
    base, other = _crossed(np.random.default_rng(4), seeds=5)
    assert share_difference(base, other).detectable == pytest.approx(0.18, abs=0.03)
    moved = [
        Points([got + shift for got in points.got], points.possible)
        for points, shift in zip(other, (-0.4, -0.2, 0, 0.2, 0.4), strict=True)
    ]
    by_hand = 2.8 * ((0.18 / 2.8) ** 2 + 0.1 / 5) ** 0.5  # rows, and the variance 0.1 of five seeds
    assert share_difference(base, moved).detectable == pytest.approx(by_hand, abs=0.05)


def test_seeds_that_differ_widen_the_interval():
    """Two seeds with opposite effects: resampling items alone would call their mean sure."""
    low, high = Points([0.0] * 50, [1.0] * 50), Points([1.0] * 50, [1.0] * 50)
    made = share_difference([low, high], [high, low])
    assert made.difference == 0
    assert made.interval == (-1.0, 1.0)
    assert made.detectable is None  # no difference of shares is as large as that


def test_the_detectable_difference_is_found_four_times_in_five():
    """A paired test of items of that deviation, simulated: the power that the figure promises."""
    assert round(detectable_share(300, 0.5), 3) == 0.081
    random, n, found = np.random.default_rng(2), 100, 0
    size = detectable_share(n, 0.5)
    for _ in range(1000):
        gaps = random.normal(size, 0.5, n)
        found += abs(gaps.mean()) / (gaps.std(ddof=1) / np.sqrt(n)) > 1.96
    assert 0.75 <= found / 1000 <= 0.85


def test_ten_rows_differ_in_four_studies_of_five():
    """Of 10 rows all have to: p^10 = 0.8. Fewer rows never have an interval."""
    assert differing_share(10) == pytest.approx(0.8**0.1)
    assert differing_share(9) is None
    differ = np.random.default_rng(5).binomial(50, differing_share(50), 4000)
    assert 0.78 <= np.mean(differ >= 10) <= 0.82


def test_a_detectable_difference_has_an_interval():
    """Three of 25 rows differ: their deviation alone would promise 0.19, of which five rows in 25 have no interval."""
    base, other = Points([0.0] * 25, [1.0] * 25), Points([1.0] * 3 + [0.0] * 22, [1.0] * 25)
    made = share_difference([base], [other])
    assert made.detectable == pytest.approx(differing_share(25)) == pytest.approx(0.46, abs=0.01)
    halves = share_difference([base], [Points([0.5] * 3 + [0.0] * 22, [1.0] * 25)])
    assert halves.detectable == pytest.approx(made.detectable / 2)  # ten rows that differ by a half
    few = share_difference([Points([0, 1] * 4, [1] * 8)], [Points([1, 0] * 4, [1] * 8)])
    assert few.detectable is None
