"""A study's result as tables: every figure at its arm and distance, and no line wider than a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from look_again.evaluation.result_tables import as_markdown, print_tables
from look_again.study.table import study_tables, study_words

RESULTS = Path(__file__).parents[2] / "docs" / "results"
STUDIES = sorted(path.name for path in RESULTS.glob("study-*"))


@pytest.mark.parametrize("name", STUDIES)
def test_the_published_table_is_that_of_the_published_result(name: str) -> None:
    result = json.loads((RESULTS / name / "result.json").read_text())
    table = as_markdown(study_tables(result), study_words(result)) + "\n"
    assert table == (RESULTS / name / "table.md").read_text()


@pytest.mark.parametrize("name", STUDIES)
def test_tables_fit_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_tables(study_tables(json.loads((RESULTS / name / "result.json").read_text())))
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert max(map(len, lines)) <= 80


def test_answers_that_went_wrong_are_told_where_there_are_any() -> None:
    cells = [{"arm": "text", "length": 100, "n": 10, "errors": 0, "cut_off": 3}]
    result = {"power": "", "cannot_tell": [], "models": [{}, {}], "cells": cells}
    assert study_words(result) == ["", "Cut off before their end, by arm and length: text at 100: 3 of 20."]
    cells[0] |= {"errors": 1, "cut_off": 0}
    assert study_words(result) == ["", "Not answered, by arm and length: text at 100: 1 of 20."]
