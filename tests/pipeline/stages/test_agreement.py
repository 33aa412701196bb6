"""Kappas against figures worked by hand."""

from __future__ import annotations

import pytest

from look_again.pipeline.stages.agreement import agreement, cohen_kappa, fleiss_kappa


def test_cohens_kappa_of_the_textbook_table():
    pairs = [(True, True)] * 20 + [(True, False)] * 5 + [(False, True)] * 10 + [(False, False)] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)


def test_fleiss_kappa_by_hand():
    """Two rows of three: 3 and 1 objections. P = (1 + 1/3) / 2, p = 4/6, P_e = 5/9, kappa = (2/3 - 5/9) / (4/9)."""
    assert fleiss_kappa([[True] * 3, [True, False, False]]) == pytest.approx(0.25)


def test_where_kappa_is_undefined():
    assert cohen_kappa([]) is None
    assert cohen_kappa([(True, True)] * 3) is None
    assert fleiss_kappa([]) is None
    assert fleiss_kappa([[True], [False]]) is None
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([[True, True], [True]])


def test_judges_that_abstain_are_left_out_of_their_pairs_alone():
    rows = [{"a": True, "b": True, "c": False}, {"a": False, "b": False}, {"a": True, "b": False, "c": True}]
    found = agreement(rows)
    assert found["complete"] == 2
    assert found["objects"] == {"a": 2 / 3, "b": 1 / 3, "c": 0.5}
    first = found["pairs"][0]
    assert (first["judges"], first["rows"], first["equal"]) == (["a", "b"], 3, 2 / 3)
    assert found["pairs"][1]["rows"] == 2
