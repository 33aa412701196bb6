"""Intervals and exact tests, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from look_again.scoring.statistics import bootstrap_interval, sign_test


@pytest.mark.parametrize(
    ("plus", "minus", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 32),
        (5, 1, 2 * (1 + 6) / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),  # 2 * 42/64, cut to 1
        (10, 10, 1.0),
    ],
)
def test_exact_p_by_hand(plus, minus, p):
    """Would catch a one-sided test, and the chi-square approximation in place of the exact one."""
    assert sign_test(plus, minus) == pytest.approx(p, rel=1e-12)
    assert sign_test(minus, plus) == sign_test(plus, minus)


def test_exact_p_of_many_pairs():
    """Would catch an overflow: 2**3000 is no float. 1500 - 1400 of 2900 is z = 1.857, p about 0.066."""
    assert sign_test(1500, 1400) == pytest.approx(0.066, abs=0.001)
    assert 0 < sign_test(3000, 2000) < 1e-40


def test_the_intervals_ends_are_quantiles_of_the_resampled_mean():
    """Of 100 zeros and ones, 30 ones: resampled means are binomial, whose 2.5% and 97.5% points are 21 and 39."""
    low, high = bootstrap_interval([1.0] * 30 + [0.0] * 70)
    assert (low, high) == (pytest.approx(0.21, abs=0.011), pytest.approx(0.39, abs=0.011))


def test_the_interval_is_seeded_and_does_not_touch_the_global_generator():
    """Would catch figures that change from one report to the next."""
    values = np.linspace(-1, 1, 37).tolist()
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)
    assert (np.random.get_state()[1] == before).all()


def test_the_interval_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch):
    """Would catch resamples lost or made twice at the borders of a block: 7 distinct values, blocks of 3."""
    whole = bootstrap_interval(range(7), resamples=1000)
    monkeypatch.setattr("look_again.scoring.statistics._DRAWN_AT_ONCE", 21)
    assert bootstrap_interval(range(7), resamples=1000) == whole


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """400 samples of 60 from a known distribution, mean 0.2: some 95% of the intervals hold it (binomial sd 1.1%)."""
    generator = np.random.default_rng(11)
    held = 0
    for index in range(400):
        sample = generator.choice([-1.0, 0.0, 1.0], p=[0.2, 0.4, 0.4], size=60)
        low, high = bootstrap_interval(sample.tolist(), seed=index, resamples=1000)
        held += low <= 0.2 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_no_values_have_no_interval():
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
