"""Stages are made once, again only where something that decides them changed, and a killed run goes on."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.reproduce.made import Prepared, followers, prepare
from look_again.reproduce.plan import PlanError, StageCost, load_plan
from look_again.reproduce.plan_checks import check_disk, check_endpoints
from look_again.reproduce.progress import StageProgress
from look_again.reproduce.run_report import without_times
from look_again.reproduce.stage_process import StageError
from look_again.reproduce.stage_runs import run_stages, selected


def stages_of(plan_file: Path, run: Path) -> dict[str, Prepared]:
    return prepare(load_plan(plan_file), plan_file.parent, run)


def run_all(
    stages: dict[str, Prepared], start: str | None = None, only: tuple[str, ...] = (), jobs: int = 1
) -> list[str]:
    todo = selected(stages, start, only)
    return run_stages(todo, stages, StageProgress(todo, jobs=jobs, shown=False), jobs)


def test_what_is_there_is_not_made_again(plan_file: Path, tmp_path: Path) -> None:
    assert run_all(stages_of(plan_file, tmp_path)) == ["numbers", "double-0", "double-1", "other"]
    assert run_all(stages_of(plan_file, tmp_path)) == []


def test_a_changed_value_makes_exactly_what_follows_from_it_again(plan_file: Path, tmp_path: Path) -> None:
    before = stages_of(plan_file, tmp_path)
    run_all(before)
    (plan_file.parent / "numbers.yaml").write_text("value: 4\n")
    after = stages_of(plan_file, tmp_path)
    assert run_all(after) == followers(after, "numbers") == ["numbers", "double-0", "double-1"]
    assert json.loads((after["double-0"].out / "result.json").read_text())["metrics"]["n"] == 8
    (plan_file.parent / "numbers.yaml").write_text("# a comment decides nothing\nvalue: 21\n")
    assert run_all(stages_of(plan_file, tmp_path)) == []  # the first folders are still there


def test_what_a_stage_made_is_made_again_when_it_is_gone(plan_file: Path, tmp_path: Path) -> None:
    stages = stages_of(plan_file, tmp_path)
    run_all(stages)
    (stages["other"].out / "x.txt").unlink()
    assert run_all(stages) == ["other"]


def test_a_part_of_the_stages(plan_file: Path, tmp_path: Path) -> None:
    stages = stages_of(plan_file, tmp_path)
    with pytest.raises(ValueError, match="'double-0' needs 'numbers', which is not made yet"):
        run_all(stages, only=("double",))
    assert run_all(stages, only=("numbers",)) == ["numbers"]
    assert run_all(stages, only=("double",)) == ["double-0", "double-1"]
    assert run_all(stages, start="other") == ["other"]
    with pytest.raises(ValueError, match="no stage is called 'x'; there are numbers, double-0"):
        run_all(stages, start="x")


def test_a_stage_that_fails_says_the_end_of_its_log_and_leaves_the_rest(plan_file: Path, tmp_path: Path) -> None:
    (plan_file.parent / "double.py").write_text("int('no')")
    stages = stages_of(plan_file, tmp_path)
    with pytest.raises(
        StageError, match=r"(?s)stage 'double-0' failed: .* status 1.*ValueError: invalid literal.*goes on"
    ):
        run_all(stages)
    assert stages["numbers"].record() is not None
    assert stages["double-0"].record() is None


def test_a_command_that_does_not_make_what_it_should_has_failed(plan_file: Path, tmp_path: Path) -> None:
    plan_file.write_text(plan_file.read_text().replace("makes: x.txt", "makes: y.txt"))
    with pytest.raises(StageError, match=r"stage 'other' failed: it did not make y\.txt"):
        run_all(stages_of(plan_file, tmp_path))


def test_a_disk_too_small_and_an_endpoint_that_does_not_answer(tmp_path: Path) -> None:
    recipe = {"endpoints": [{"name": "t", "base_url": "http://127.0.0.1:9/v1", "model": "m"}]}
    stage = load_plan_stage(tmp_path)
    plan, lines = tmp_path / "one.yaml", {"only": 4}
    large = replace(stage, cost=StageCost(disk_mb=1e12))
    with pytest.raises(PlanError, match=r"one\.yaml:4: stage 'only' leaves about .* GB free: choose another --out"):
        check_disk([Prepared(large, "k", tmp_path, None, ())], tmp_path / "not" / "yet", plan, lines)
    with pytest.raises(
        PlanError, match=r"one\.yaml:4: stage 'only' asks http://127\.0\.0\.1:9/v1, which does not answer"
    ):
        check_endpoints([Prepared(stage, "k", tmp_path, recipe, ())], plan, lines)


def load_plan_stage(folder: Path):
    path = folder / "one.yaml"
    path.write_text("name: n\nabout: a\nstages:\n  - {name: only, step: 1, about: x, run: [python x], makes: y}\n")
    return load_plan(path).stages[0]


def test_a_run_killed_at_any_moment_ends_in_the_same_report(plan_file: Path, tmp_path: Path) -> None:
    """Would catch a half-made stage taken for a whole one."""
    assert main(["reproduce", "--plan", str(plan_file), "--out", str(tmp_path / "calm"), "--json"]) == 0
    command = [
        sys.executable,
        "-m",
        "look_again",
        "reproduce",
        "--plan",
        str(plan_file),
        "--out",
        str(tmp_path / "run"),
    ]
    chance = random.Random(0)
    for _ in range(4):
        process = subprocess.Popen(
            command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True
        )
        time.sleep(chance.uniform(0.3, 3))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert subprocess.run(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=False).returncode == 0
    calm, killed = (json.loads((tmp_path / run / "report" / "report.json").read_text()) for run in ("calm", "run"))
    assert without_times(killed) == without_times(calm)
    assert all(stage["done"] for stage in killed["stages"])


def test_the_page_says_what_was_made_and_what_is_missing(plan_file: Path, tmp_path: Path) -> None:
    run = ["reproduce", "--plan", str(plan_file), "--out", str(tmp_path / "run"), "--json"]
    assert main([*run, "--only", "numbers"]) == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "1 of 4 stages are made" in page
    assert "not made" in page
    assert main(run) == 0
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "not made" not in page
    assert "58.6" in page
    assert "doubled 42" in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_dry_run_lists_stages_and_makes_nothing(plan_file: Path, tmp_path: Path, capsys) -> None:
    assert main(["reproduce", "--plan", str(plan_file), "--out", str(tmp_path / "run"), "--dry-run", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [stage["stage"] for stage in said["stages"]] == ["numbers", "double-0", "double-1", "other"]
    assert said["left"]["stages"] == 4
    assert not (tmp_path / "run").exists()
