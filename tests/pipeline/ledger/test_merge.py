"""Shards come into the ledger once, whole, and only where they belong."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.pipeline.intake import add_rows
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.ledger.merge import merge
from look_again.pipeline.ledger.shards import Shard, list_shards, read_shard, write_shard
from tests.pipeline.ray.task_runs import STAGES, Counting, by_tasks, cut, do, everything, here, rows, state

pytest.importorskip("pyarrow")
ONE = STAGES[0]


@pytest.fixture
def ledger(ledger):
    add_rows(ledger, rows(7), "here")
    return ledger


@pytest.fixture
def shards(ledger):
    """Two tasks of the first stage, done and not merged, beside the ledger."""
    folder = ledger.folder / "shards"
    folder.mkdir()
    for path in cut(ledger, ONE, folder, size=9):
        do(path, ONE)
        path.unlink()
    return folder


def test_merged_twice_is_merged_once(ledger, shards):
    first = merge(ledger, [shards])
    assert (first.shards, first.results, first.known) == (2, 14, 0)
    before = everything(ledger)
    again = merge(ledger, [shards, shards])
    assert (again.shards, again.results, again.requests, again.attempts, again.known) == (0, 0, 0, 0, 4)
    assert everything(ledger) == before


def test_a_shard_under_another_hash_doubles_nothing(ledger, shards):
    """Two workers that took each other for dead leave two shards of one task."""
    merge(ledger, [shards])
    before = everything(ledger)
    found = read_shard(list_shards(shards)[0])
    half = Shard(found.head, found.records[:4])
    write_shard(shards / f"again.{half.digest}.parquet", half)
    merged = merge(ledger, [shards])
    assert (merged.shards, merged.known, merged.results, merged.requests, merged.attempts) == (1, 2, 0, 0, 0)
    assert merged.outdated == 4
    assert everything(ledger) == before


def test_numbers_of_attempts_go_on_in_the_ledger(ledger, shards):
    """Else an answer would point to another request's attempt, and the audit would mean nothing."""
    here(ledger, [replace(ONE, key=replace(ONE.key, stage="other"))])
    merge(ledger, [shards])
    ids = [number for (number,) in ledger.read("SELECT id FROM attempts ORDER BY id")]
    assert ids == list(range(1, len(ids) + 1))
    wrong = "SELECT count(*) FROM requests r JOIN attempts a ON a.id = r.answered_by WHERE a.key != r.key"
    assert ledger.read(wrong) == [(0,)]
    assert ledger.audit() == {"sent_again": 0, "interrupted": 0, "repeated": 0}


def test_a_reply_that_both_have_is_told_of(ledger, shards):
    """The local engine ran while shards lay about: paid twice, and the audit has to say so."""
    here(ledger, [ONE])
    before = state(ledger)
    merged = merge(ledger, [shards])
    assert merged.results == 0
    assert merged.outdated == 14
    assert state(ledger) == before
    assert ledger.audit()["sent_again"] == merged.attempts > 0


def test_a_result_that_is_no_longer_wanted_replaces_none(ledger, shards):
    """Shards of the prompt before the last must not undo the last."""
    newer = replace(ONE, key=replace(ONE.key, version="w"))
    by_tasks(ledger, ledger.folder / "newer", [newer])
    results = state(ledger)["results"]
    merged = merge(ledger, [shards])
    assert (merged.results, merged.outdated) == (14, 0), "asked for by this version, as it is what was merged last"
    here(ledger, [newer])
    assert state(ledger)["results"] == results


def test_an_answer_that_changed_meanwhile_is_not_covered_by_a_shard(ledger, shards):
    merge(ledger, [shards])
    folder = ledger.folder / "second"
    folder.mkdir()
    for path in cut(ledger, STAGES[1], folder):
        do(path, STAGES[1])
    ledger.apply([("UPDATE results SET digest = 'changed' WHERE stage = 'one' AND n = 1", ())])
    merged = merge(ledger, [folder])
    assert merged.outdated == 2
    assert ledger.read("SELECT count(*) FROM results WHERE stage = 'two' AND n = 1") == [(0,)]
    assert ledger.read("SELECT count(*) FROM requests WHERE stage = 'two' AND n = 1 AND reply IS NOT NULL") == [(2,)]


def test_shards_of_another_run_are_refused(ledger, shards, tmp_path):
    with Ledger(tmp_path / "other") as other:
        add_rows(other, [replace(row, question=f"else {row.question}") for row in rows(7)], "here")
        before = everything(other)
        merged = merge(other, [shards])
        assert merged.shards == 0
        assert len(merged.refused) == 2
        assert "is of another run" in merged.refused[0]
        assert everything(other) == before
    with Ledger(tmp_path / "copy") as copy:
        add_rows(copy, rows(7), "elsewhere")
        assert merge(copy, [shards]).results == 14, "the same rows in another ledger are the same rows"


class Killed(BaseException):
    """The process is gone."""


class Mortal(Ledger):
    """Dies at its n-th write, before or after it is on the disk."""

    lives = 0

    def apply(self, ops) -> None:
        self.lives -= 1
        if self.lives == 0 and not self.after:
            raise Killed
        super().apply(ops)
        if self.lives == 0:
            raise Killed


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("lives", [2, 3])
def test_a_merge_that_is_killed_goes_on(ledger, shards, tmp_path, lives, after):
    ledger.close()
    shutil.copytree(tmp_path / "run", tmp_path / "undisturbed")
    mortal = Mortal(tmp_path / "run")
    mortal.lives, mortal.after = lives, after
    with suppress(Killed):
        merge(mortal, [shards])
    mortal.close()
    with Ledger(tmp_path / "run") as one, Ledger(tmp_path / "undisturbed") as other:
        merge(one, [shards])
        merge(other, [tmp_path / "undisturbed" / "shards"])
        assert state(one) == state(other)
        assert len(one.read("SELECT id FROM attempts")) == len(other.read("SELECT id FROM attempts"))


def test_an_item_that_ends_takes_later_results_with_it(ledger, shards):
    """As the local engine does: a row that is refused at last must not stay in the build."""
    ledger.apply([("INSERT INTO results VALUES ('two', 5, 0, 'ok', 'x', 'x', '{}', NULL, 0)", ())])
    merge(ledger, [shards])
    assert ledger.read("SELECT status FROM results WHERE stage = 'one' AND n = 5 AND sample = 0") == [("bad",)]
    assert ledger.read("SELECT * FROM results WHERE stage = 'two'") == []


def test_the_command_tells_what_it_brought_in(ledger, shards, tmp_path, capsys):
    ledger.close()
    last = list_shards(shards)[-1]
    last.write_bytes(last.read_bytes()[:-9])
    run = str(tmp_path / "run")
    assert main(["data", "merge", "--run", run, "--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["shards"], said["results"]) == (1, 9)
    assert "no whole shard" in said["refused"][0]
    last.unlink()
    assert main(["data", "merge", "--run", run, "--shards", str(shards)]) == 0
    assert "0 shards brought in, 1 were there" in capsys.readouterr().out
    assert main(["data", "merge", "--run", run, "--shards", str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--engine", "ray", "--no-merge"], "one stage at a time"),
        (["--ray-workers", "3"], "are for --engine ray"),
        (["--engine", "ray", "--shard-rows", "0"], "shard_rows is 0"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, capsys, more, reason):
    recipe = tmp_path / "run.yaml"
    recipe.write_text("flow: cold-start\nteacher: t\nendpoints: [{name: t, base_url: 'tabletop:', model: m}]")
    assert main(["data", "run", "--config", str(recipe), "--run", str(tmp_path / "run"), *more]) == 2
    assert reason in capsys.readouterr().err


def test_without_ray_the_extra_is_named(tmp_path, capsys, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else real(name, *rest))
    recipe = tmp_path / "run.yaml"
    recipe.write_text("flow: cold-start\nteacher: t\nendpoints: [{name: t, base_url: 'tabletop:', model: m}]")
    where = ["--config", str(recipe), "--run", str(tmp_path / "run")]
    assert main(["data", "cold-start", *where, "--engine", "ray"]) == 2
    assert "pip install 'look-again-vlm[ray]'" in capsys.readouterr().err


def test_only_replies_are_worth_a_shard(ledger, tmp_path):
    """A task that nobody began leaves nothing behind."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    cut(ledger, ONE, folder)
    assert merge(ledger, [Path(folder)]).shards == 0
    assert not list(folder.iterdir())
    assert Counting().answered == []
