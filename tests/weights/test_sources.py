"""Where a checkpoint is looked for: folders, runs, the cache of downloads, and a hub that may not answer."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.weights import LoadError, sources
from look_again.weights.sources import default_checkpoint, resolve_source, unreachable


@pytest.fixture
def dead_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub at an address where nothing listens."""
    monkeypatch.setattr(sources, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(sources, "HF_HUB_OFFLINE", False)
    unreachable.cache_clear()
    yield
    unreachable.cache_clear()


def test_folders_and_runs_are_taken_as_they_are(tmp_path: Path) -> None:
    assert resolve_source(None) == str(default_checkpoint())
    assert resolve_source(tmp_path) == str(tmp_path)
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "config.json").write_text("{}")
    assert resolve_source(tmp_path) == str(tmp_path / "final")


@pytest.mark.parametrize("name", ["./nosuchdir", "/no/such/dir", "runs/cold-start/sft/final", "~/models/x", ""])
def test_a_folder_that_is_not_there_is_no_hub_name(dead_hub: None, name: str) -> None:
    """Would catch five tries at a hub for a mistyped folder."""
    with pytest.raises(LoadError, match="there is no such folder here, and it is no hub name"):
        resolve_source(name)


def test_a_hub_that_does_not_answer_is_told_at_once(dead_hub: None, capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch two minutes of retries before the reason is printed."""
    started = time.perf_counter()
    assert main(["ask", "What?", "--model", "nobody/no-such-model-of-ours"]) == 2
    error = capsys.readouterr().err
    assert "cannot load the model 'nobody/no-such-model-of-ours': there is no such folder here, it is not in" in error
    assert "http://127.0.0.1:9 cannot be reached ([Errno 111] Connection refused)" in error
    assert error.count("\n") == 1
    assert time.perf_counter() - started < 30


def test_the_cache_is_used_where_the_hub_does_not_answer(
    dead_hub: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "snapshot_download", lambda name, local_files_only: str(tmp_path / name))
    assert resolve_source("somebody/model") == str(tmp_path / "somebody" / "model")


def test_offline_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(sources, "unreachable", lambda: pytest.fail("asked the hub"))
    with pytest.raises(LoadError, match="not in the cache of downloads, and HF_HUB_OFFLINE is set"):
        resolve_source("nobody/no-such-model-of-ours")


@pytest.mark.parametrize(
    ("method", "recipe", "first"),
    [
        ("brpo", "tabletop/brpo.yaml", "sft --config recipes/tabletop/cold_start.yaml"),
        ("sft", "tabletop/sft_copy.yaml", "sft --config recipes/tabletop/tiny.yaml"),
        ("brpo", "paper/brpo.yaml", "sft --config recipes/paper/cold_start.yaml"),
    ],
)
def test_a_recipe_names_the_one_that_makes_its_base(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, method: str, recipe: str, first: str
) -> None:
    """Would catch "runs/cold-start/sft/final is no hub name" as all that a newcomer is told."""
    monkeypatch.chdir(Path(__file__).parents[2])
    plan = [] if recipe.startswith("paper") else ["--dry-run"]  # the paper's plan is made from known shapes alone
    assert main(["train", method, "--config", f"recipes/{recipe}", *plan]) == 2
    assert f"which is not there: make it first, look-again train {first}" in capsys.readouterr().err


def test_an_endless_stream_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Would catch a comparison with an evaluation set that has no last row."""
    assert main(["data", "overlap", "--rows", "tabletop:1:2", "--evaluation", "tabletop:0"]) == 2
    assert "a stream that never ends: say how many rows (0:1000)" in capsys.readouterr().err
