"""Checkpoints that were exported under the package's old name are still read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationMixin

from look_again.commands.main import main
from look_again.hub import generate
from look_again.loading import default_checkpoint
from look_again.weights.checkpoint_record import OLD_SIDE_FILE, SIDE_FILE, read_record


@pytest.mark.parametrize("name", [SIDE_FILE, OLD_SIDE_FILE])
@pytest.mark.parametrize("trained", [True, False])
def test_the_side_file_says_whether_a_checkpoint_was_trained(name: str, trained: bool, tmp_path: Path) -> None:
    """Would catch a trained checkpoint of the old name being prompted as if it were a stock one."""
    (tmp_path / name).write_text(json.dumps({"trained": trained}))
    assert read_record(str(tmp_path)).trained is trained


def test_the_new_side_file_counts_where_both_are_there(tmp_path: Path) -> None:
    (tmp_path / SIDE_FILE).write_text('{"trained": false}')
    (tmp_path / OLD_SIDE_FILE).write_text('{"trained": true}')
    assert read_record(str(tmp_path)).trained is False


def test_without_a_side_file_a_checkpoint_was_not_trained(tmp_path: Path) -> None:
    assert read_record(str(tmp_path)).trained is None


@pytest.mark.parametrize("key", ["look_again", "lookagain"])
def test_the_generation_configuration_is_read_under_both_names(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = json.loads((default_checkpoint() / "generation_config.json").read_text())["look_again"]
    loops = []

    class Model:
        generation_config = type("Settings", (), {key: facts | {"mode": "route", "keep": 25}})()

    def record(model: Any, *args: Any, custom_generate: Any, **kwargs: Any) -> None:
        loops.append(custom_generate)

    monkeypatch.setattr(GenerationMixin, "generate", record)
    generate(model=Model())
    assert (loops[0].policy.mode, loops[0].policy.keep) == ("route", 25)


def test_a_generation_configuration_without_the_entry_is_refused() -> None:
    class Model:
        generation_config = object()

    with pytest.raises(ValueError, match="export the checkpoint with this package"):
        generate(model=Model())


@pytest.mark.parametrize("run", [True, False])
def test_a_prepared_copy_has_the_side_file_under_its_present_name(run: bool, tmp_path: Path) -> None:
    """Would catch a copy of an old checkpoint, or of a run by its folder, that fails or forgets that it was trained."""
    old = tmp_path / "run" / "final"
    shutil.copytree(default_checkpoint(), old)
    (old / SIDE_FILE).rename(old / OLD_SIDE_FILE)
    assert main(["prepare", str(old.parent if run else old), str(tmp_path / "copy")]) == 0
    assert read_record(str(tmp_path / "copy")).trained
    assert (tmp_path / "copy" / SIDE_FILE).is_file()
