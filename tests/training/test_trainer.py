"""The order of rows."""

from __future__ import annotations

from look_again.training.trainer import EpochOrder


def test_an_epochs_order_depends_on_seed_and_epoch_alone():
    """Would catch a restart in the second epoch that reads other rows."""
    order = EpochOrder(20, seed=3)
    first = list(order)
    assert sorted(first) == list(range(20))
    assert list(order) == first
    order.set_epoch(1)
    second = list(order)
    assert sorted(second) == list(range(20))
    assert second != first
    again = EpochOrder(20, seed=3)
    again.set_epoch(1)
    assert list(again) == second
    assert list(EpochOrder(20, seed=4)) != first


def test_length_groups_hold_rows_of_similar_length():
    lengths = [10 * (i % 10) + 1 for i in range(100)]
    order = list(EpochOrder(100, seed=0, lengths=lengths, group=10))
    assert sorted(order) == list(range(100))
    spans = [
        max(lengths[i] for i in g) - min(lengths[i] for i in g) for g in (order[s : s + 10] for s in range(0, 100, 10))
    ]
    assert sorted(spans)[5] <= 50  # of 90; groups drawn at random span 80 and more
