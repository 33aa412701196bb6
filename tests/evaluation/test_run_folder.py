"""The folder of a run: one process at a time, and the configuration of the one that holds the lock."""

from __future__ import annotations

import json

import pytest

from look_again.evaluation import run_folder as folders
from look_again.evaluation.run_folder import RunFolder


def test_a_folder_is_written_by_one_process_at_a_time(tmp_path):
    """Would catch two terminals that resume one run and interleave their lines."""
    with RunFolder(tmp_path, {}), pytest.raises(ValueError, match="another process"):
        RunFolder(tmp_path, {})
    with RunFolder(tmp_path, {}) as folder:
        assert folder.done == set()


def test_who_does_not_hold_the_lock_writes_no_configuration(tmp_path, monkeypatch):
    """Would catch the loser of two first starts that leaves its configuration beside the winner's answers."""
    real, winner = folders.write_json, []

    def late(path, value):
        if value == {"model": "b"} and not winner:  # b found no configuration; before it writes its own, a starts
            with pytest.raises(ValueError, match="another process"):
                winner.append(RunFolder(tmp_path, {"model": "a"}))
        return real(path, value)

    monkeypatch.setattr(folders, "write_json", late)
    with RunFolder(tmp_path, {"model": "b"}):
        assert json.loads((tmp_path / "config.json").read_text()) == {"model": "b"}
    with pytest.raises(ValueError, match="model was 'b', now 'a'"):
        RunFolder(tmp_path, {"model": "a"})
    with RunFolder(tmp_path, {"model": "b"}) as folder:  # the refused one let go of the lock
        assert folder.done == set()


def test_a_start_that_was_killed_before_its_configuration_can_be_repeated(tmp_path):
    """Would catch an empty list of items, which the lock needs, taken for answers of nobody knows which run."""
    (tmp_path / "items.jsonl").touch()
    with RunFolder(tmp_path, {"model": "a"}) as folder:
        assert folder.done == set()
    assert json.loads((tmp_path / "config.json").read_text()) == {"model": "a"}
