"""The shipped model bears people: how often it is right by the form in which it is asked, through the command."""

from __future__ import annotations

import json

import pytest

from look_again.commands.main import main


@pytest.fixture(scope="module")
def right(tmp_path_factory) -> dict[str, float]:
    """Shares of right answers to 20 fresh questions a form."""
    out = tmp_path_factory.mktemp("people") / "run"
    assert main(["eval", "tabletop-phrased", "--seed", "11", "--n", "200", "--batch", "100", "--out", str(out)]) == 0
    result = json.loads((out / "tabletop-phrased" / "result.json").read_text())
    return {name: group["accuracy"] for name, group in result["subsets"].items() if name.startswith("form/")}


@pytest.mark.parametrize("form", ["made", "lower", "bare", "reworded"])
def test_wording_and_case_make_no_difference(right, form):
    """Would catch weights that know the rows' own wording alone: 0.20 reworded and 0.70 in lower case."""
    assert right[f"form/{form}"] >= 0.85
    assert right[f"form/{form}"] >= right["form/made"] - 0.1


@pytest.mark.parametrize(("form", "share"), [("capitals", 0.7), ("unseen", 0.6), ("more", 0.6)])
def test_what_is_further_from_the_rows_is_mostly_understood(right, form, share):
    assert right[f"form/{form}"] >= share


@pytest.mark.parametrize(("form", "share"), [("unknown", 0.85), ("unseen-unknown", 0.6), ("foreign", 0.9)])
def test_it_says_that_it_does_not_know(right, form, share):
    """Would catch answers that are made up about questions and images of none of its world: all of them, once."""
    assert right[f"form/{form}"] >= share
