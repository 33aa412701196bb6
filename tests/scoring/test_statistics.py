"""Intervals and exact tests, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from look_again.scoring.statistics import bootstrap_interval, detectable_difference, paired_interval, sign_test


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


SIMULATIONS = 1_500
SHARES = [(0.05, 0.05), (0.1, 0.1), (0.2, 0.1), (0.15, 0.05), (0.3, 0.1), (0.25, 0.25), (0.4, 0.1)]
"""Of pairs right in the one run alone, and in the other alone."""


def coverage(n: int, higher: float, lower: float, seed: int) -> float:
    """How often the interval holds the true difference."""
    generator, held, known = np.random.default_rng(seed), 0, {}
    for drawn in generator.multinomial(n, [higher, lower, 1 - higher - lower], size=SIMULATIONS):
        counts = int(drawn[0]), int(drawn[1])
        if counts not in known:
            low, high = paired_interval(*counts, n)
            known[counts] = low <= higher - lower <= high
        held += known[counts]
    return held / SIMULATIONS


@pytest.mark.parametrize("n", [10, 20, 50, 200])
def test_paired_intervals_cover_the_truth(n):
    """Would catch the bootstrap, which holds 40 to 90% of the truths where few pairs differ. `-s` prints the figures.

    Of 10 or 20 pairs of which one or two differ, an interval that covers 95% holds more, as counts are whole numbers.
    """
    covered = {shares: coverage(n, *shares, seed=n) for shares in SHARES}
    print(f"n = {n}: " + ", ".join(f"{100 * share:.1f}%" for share in covered.values()))
    assert min(covered.values()) >= 0.93
    expected = [share for (higher, lower), share in covered.items() if n * (higher + lower) >= 5]
    assert all(share <= 0.975 for share in expected)


def test_paired_interval_by_hand():
    """With nothing discordant the ends are z^2 / (n + z^2); with everything, they mirror; order changes signs alone."""
    z2 = 1.959963984540054**2
    assert paired_interval(0, 0, 10) == pytest.approx((-z2 / (10 + z2), z2 / (10 + z2)))
    assert paired_interval(9, 3, 40) == pytest.approx(tuple(-end for end in reversed(paired_interval(3, 9, 40))))
    low, _ = paired_interval(9, 3, 40)  # at the end, the statistic under the most likely shares of that difference is z
    shares = np.linspace(max(0, -low) + 1e-6, (1 - low) / 2 - 1e-6, 400_000)
    likelihood = 9 * np.log(shares + low) + 3 * np.log(shares) + 28 * np.log(1 - low - 2 * shares)
    share = shares[likelihood.argmax()]
    assert (9 - 3 - 40 * low) ** 2 / (40 * (2 * share + low - low**2)) == pytest.approx(z2, rel=1e-3)
    with pytest.raises(ValueError, match="no values"):
        paired_interval(0, 0, 0)


def test_power_is_what_simulation_finds():
    """A detectable difference that is found in half of all comparisons, or in all of them."""
    found = detectable_difference(300, 0.2)
    generator, rejected = np.random.default_rng(3), 0
    shares = [0.1 + found / 2, 0.1 - found / 2, 0.8]
    for higher, lower, _ in generator.multinomial(300, shares, size=1_500):
        rejected += sign_test(int(higher), int(lower)) <= 0.05
    assert 0.72 <= rejected / 1_500 <= 0.86  # the exact test is a little weaker than the approximation
    assert detectable_difference(10, 0.2) is None
    assert detectable_difference(1000, 0.2) < detectable_difference(200, 0.2)
