"""A study's figure of whatever arms were run."""

from __future__ import annotations

import pytest

from look_again.commands.main import main
from look_again.study.figure import study_figure


def _selection(*arms):
    cells = [{"arm": arm, "length": 800, "mended": 0.5, "mended_interval": (0.4, 0.6)} for arm in arms]
    return {"study": "selection", "scores": ["mended"], "cells": cells}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("arms", [(), ("wrong-image",), ("route-0",), ("route-10", "random-10", "route-50-both")])
def test_a_selection_is_drawn_without_rankings_and_with_other_arms(arms):
    drawn = study_figure(_selection("text", "copy", *arms))
    assert drawn.count("<use") > 0
    assert ("another image's rows" in drawn) == ("wrong-image" in arms)


def test_the_table_is_there_where_the_figure_cannot_be_drawn(tmp_path, capsys, monkeypatch):
    def fail(result):
        raise ValueError("no such colour")

    monkeypatch.setattr("look_again.study.figure.study_figure", fail)
    small = ["--lengths", "100", "--n", "10", "--n-other", "10", "--batch", "10", "--arms", "text,copy"]
    assert main(["study", "selection", "--out", str(tmp_path / "out"), *small]) == 2
    assert "Cannot tell: " in capsys.readouterr().out
    assert "| copy | 10 |" in (tmp_path / "out" / "table.md").read_text()
