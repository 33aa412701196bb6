"""Curves of runs: what is read, smoothed and drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from look_again.rl.reward_curves import curves, main, name_runs, smoothed


def test_figures_of_some_steps_keep_their_steps():
    """Would catch test accuracy drawn against the wrong steps."""
    made = curves({"a": [{"step": 1, "accuracy": 0.5}, {"step": 2, "accuracy": 0.25, "test_accuracy": 0.75}]})
    assert made == {"a": {"step": [1, 2], "accuracy": [0.5, 0.25], "test_accuracy": [0.75], "test_accuracy_steps": [2]}}


def test_smoothing_is_shorter_at_the_ends():
    assert smoothed([0, 3, 6, 9], width=3) == [1.5, 3, 6, 7.5]


def test_files_are_written(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        lines = [
            {"step": s, "reflections": s, "tokens_per_reflection": 40, "accuracy": 0.5, "test_accuracy": 0.6}
            for s in range(1, 9)
        ]
        (tmp_path / name / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    main([str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(tmp_path / "out" / "drawn")])
    assert json.loads((tmp_path / "out" / "drawn.json").read_text())["two"]["reflections"] == list(range(1, 9))
    assert (tmp_path / "out" / "drawn.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("text", [None, ""])
def test_folders_without_a_log_are_named(tmp_path, text):
    if text is not None:
        (tmp_path / "log.jsonl").write_text(text)
    with pytest.raises(ValueError, match="log"):
        main([str(tmp_path), "--out", str(tmp_path / "x")])


def test_runs_are_called_by_their_folders_or_as_they_are_told():
    """Would catch runs in folders of one name that are drawn as a single one."""
    assert name_runs(["runs/a", "seed 1=runs/b/out"]) == {"a": Path("runs/a"), "seed 1": Path("runs/b/out")}
    with pytest.raises(ValueError, match="two runs are called 'out': say NAME=runs/b/out"):
        name_runs(["runs/a/out", "runs/b/out"])
