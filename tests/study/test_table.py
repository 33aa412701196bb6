"""A study's result as tables: every figure at its arm and distance, and no line wider than a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from look_again.evaluation.result_tables import print_tables
from look_again.study.table import as_markdown, study_tables, study_words

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
