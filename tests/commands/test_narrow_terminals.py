"""Whatever prints a table fits a terminal of 80 columns, with every word of it whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from look_again.commands.main import main

REPOSITORY = Path(__file__).parents[2]
BOX = REPOSITORY / "recipes" / "box" / "tabletop.yaml"
TABLES = {
    "families": ("families",),
    "eval tabletop": ("eval tabletop --n 2 --max-new-tokens 8 --no-planted",),
    "data": ("data demo --rows 3 --oracle --out {folder}/demo", "data status --run {folder}/demo/distilled"),
    "reproduce": ("reproduce --plan {box} --quick --dry-run --out {folder}/box",),
}
SENTENCES = ("Look at rows", "How a flow went", "Rows to train on", "With models")  # with paths, which do not break


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(REPOSITORY)
    for command in TABLES[name]:
        assert main(command.format(folder=tmp_path, box=BOX).split()) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines
        assert [line for line in lines if len(line) > 80 and not line.startswith(SENTENCES)] == []
