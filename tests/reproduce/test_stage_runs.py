"""Stages are made once, again only where something that decides them changed, and a killed run goes on."""

from __future__ import annotations

import json
import os
import random
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.reproduce.made import Prepared, followers, prepare
from look_again.reproduce.plan import PlanError, StageCost
from look_again.reproduce.plan_checks import check_disk, check_endpoints
from look_again.reproduce.plan_file import load_plan
from look_again.reproduce.progress import StageProgress
from look_again.reproduce.run_report import without_times
from look_again.reproduce.schedule import schedule_minutes
from look_again.reproduce.stage_process import StageError, divide_threads
from look_again.reproduce.stage_runs import run_stages, selected
from tests.reproduce.run_commands import kill_run, read_report, start_run


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


ALL = ["numbers", "double-0", "double-1", "other"]


@pytest.mark.parametrize(
    ("file", "before", "after", "again"),
    [
        ("numbers.yaml", "21", "4", ["numbers", "double-0", "double-1"]),
        ("small.yaml", "recipe: numbers.yaml", "recipe: numbers.yaml\n    change: {value: 4}", ALL[:3]),
        ("small.yaml", "seeds: [0, 1]", "seeds: [0, 2]", []),  # double-2 is new and is asked for below
        ("small.yaml", "{out}/x.txt", "{out}/x.txt more", ["other"]),
        ("small.yaml", "makes: x.txt", "makes: x.txt\n    reads: [other.py]", ["other"]),
        ("small.yaml", "about: needs nothing", "about: says something else", []),
        ("small.yaml", "says: nothing", "says: something", []),
        ("small.yaml", "makes: x.txt", "makes: x.txt\n    cost: {minutes: 9}", []),
        ("small.yaml", "quick:", "jobs: 2\nquick:", []),
    ],
)
def test_what_a_change_makes_again(
    plan_file: Path, tmp_path: Path, file: str, before: str, after: str, again: list[str]
) -> None:
    """Would catch a value that decides nothing, and one that decides too much."""
    first = stages_of(plan_file, tmp_path)
    changed = plan_file.parent / file
    assert before in changed.read_text()
    changed.write_text(changed.read_text().replace(before, after, 1))
    second = stages_of(plan_file, tmp_path)
    assert [name for name in second if name in first and second[name].key != first[name].key] == again


def test_another_version_makes_everything_again(plan_file: Path, tmp_path: Path, monkeypatch) -> None:
    first = stages_of(plan_file, tmp_path)
    monkeypatch.setattr("look_again.reproduce.made.version", lambda package: "0.0.1")
    second = stages_of(plan_file, tmp_path)
    assert [name for name in second if second[name].key != first[name].key] == ALL


def test_a_file_that_a_stage_reads_and_the_shipped_model_decide(plan_file: Path, tmp_path: Path, monkeypatch) -> None:
    text = plan_file.read_text().replace("makes: x.txt", "makes: x.txt\n    reads: [other.py]")
    plan_file.write_text(text.replace('{out}/n.txt"', '{out}/n.txt {shipped}"'))
    model = tmp_path / "model"
    model.mkdir()
    monkeypatch.setattr("look_again.weights.sources.default_checkpoint", lambda: model)
    keys = [{name: one.key for name, one in stages_of(plan_file, tmp_path).items()}]
    for changed in (plan_file.parent / "other.py", model / "model.safetensors"):
        changed.write_text("other bytes")
        keys.append({name: one.key for name, one in stages_of(plan_file, tmp_path).items()})
    moved = [[name for name in ALL if old[name] != new[name]] for old, new in pairwise(keys)]
    assert moved == [["other"], ["numbers", "double-0", "double-1"]]


def test_a_recipe_value_of_the_box_makes_exactly_its_followers_again(tmp_path: Path) -> None:
    """Of the shipped pipeline: the base decides all but the cold-start rows and the picture, an SFT its own arm."""
    path = Path(__file__).parents[2] / "recipes" / "box" / "tabletop.yaml"
    plan = load_plan(path, quick=True)
    first = prepare(plan, path.parent, tmp_path)
    names = set(first)
    arms = {name for name in names if name.startswith(("sft-", "eval-")) and not name.startswith("eval-base")}
    late = {"dilution", "theorems", "heatmap"}
    copies = {"sft-copy-0", "eval-copy-0", "eval-vision-0", "eval-wrong-image-0"} | late
    for name, change, expected in (
        ("base", {"stages.0.steps": 61}, names - {"cold-data", "picture"}),
        (
            "cold-data",
            {"build.name": "Other rows"},
            names - {"base", "picture", "eval-base", "eval-base-copy", "eval-base-route"},
        ),
        ("zero", {"beta": 0.05}, {"zero", "distilled", "curves"} | arms | late),
        ("distilled", {"distil.max_new_tokens": 255}, {"distilled"} | (arms - {"eval-zero"}) | late),
        ("sft-copy-0", {"seed": 7}, copies),
        ("sft-text-0", {"stages.0.steps": 41}, {"sft-text-0", "eval-text-0"}),
        ("picture", {}, set()),
    ):
        stages = tuple(
            replace(stage, change={**stage.change, **change}) if stage.name == name else stage for stage in plan.stages
        )
        second = prepare(replace(plan, stages=stages), path.parent, tmp_path)
        assert {one for one in names if second[one].key != first[one].key} == expected, name
        assert not expected or expected == set(followers(first, name))


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
    with pytest.raises(ValueError, match="no stage is called 'x'; there are numbers, double, other"):
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


@pytest.mark.parametrize("alone", [False, True], ids=["with its commands", "the run alone"])
def test_a_run_killed_at_any_moment_ends_in_the_same_report(plan_file: Path, tmp_path: Path, alone: bool) -> None:
    """Would catch a half-made stage taken for a whole one, and a file that a kill left half written."""
    assert main(["reproduce", "--plan", str(plan_file), "--out", str(tmp_path / "calm"), "--json"]) == 0
    chance = random.Random(0)
    for _ in range(10):
        process = start_run(plan_file, tmp_path / "run")
        time.sleep(chance.uniform(0.2, 1.6))
        kill_run(process, alone=alone)
    assert start_run(plan_file, tmp_path / "run").wait() == 0
    killed = read_report(tmp_path / "run")
    assert without_times(killed) == without_times(read_report(tmp_path / "calm"))
    assert all(stage["done"] for stage in killed["stages"])


@pytest.mark.parametrize("left", ["", "12.5\n", "1"])
def test_whatever_a_kill_left_beside_a_stage_is_gone_on_from(plan_file: Path, tmp_path: Path, left: str) -> None:
    """Would catch a file that is read at the start and was not written whole."""
    stages = stages_of(plan_file, tmp_path)
    folder = stages["numbers"].folder
    (folder / "out").mkdir(parents=True)
    for name in ("stage.json", "stage.json.part", "seconds.txt.part", "recipe.yaml", "recipe.yaml.part", "lock"):
        (folder / name).write_text(left)
    assert run_all(stages) == ["numbers", "double-0", "double-1", "other"]


def test_a_command_that_outlives_its_killed_run_is_waited_for(plan_file: Path, tmp_path: Path) -> None:
    """Would catch two commands that write into one stage's folder at once."""
    trace = tmp_path / "trace"
    (plan_file.parent / "other.py").write_text(
        f"import pathlib, sys, time\n"
        f"with open({str(trace)!r}, 'a', buffering=1) as file:\n"
        f"    file.write('begin\\n')\n"
        f"    time.sleep(3)\n"
        f"    file.write('end\\n')\n"
        f"pathlib.Path(sys.argv[1]).write_text('x')\n"
    )
    process = start_run(plan_file, tmp_path / "run")
    while not trace.exists():
        time.sleep(0.05)
    kill_run(process, alone=True)
    assert run_all(stages_of(plan_file, tmp_path / "run")) == ["other"]
    assert trace.read_text().split() == ["begin", "end", "begin", "end"]


def test_stages_run_at_once_where_none_needs_another(plan_file: Path, tmp_path: Path) -> None:
    """Each of two stages waits for the other's file, so that one after the other would never end."""
    (plan_file.parent / "meet.py").write_text(
        "import pathlib, sys, time\n"
        "own, other, made = map(pathlib.Path, sys.argv[1:])\n"
        "own.write_text('x')\n"
        "end = time.monotonic() + 60\n"
        "while not other.exists():\n"
        "    time.sleep(0.05)\n"
        "    assert time.monotonic() < end\n"
        "made.write_text('x')\n"
    )
    command = f"python {plan_file.parent}/meet.py {tmp_path}/met-%s {tmp_path}/met-%s {{out}}/x"
    stages = [
        {"name": own, "step": 1, "about": "x", "run": [command % (own, other)], "makes": "x"}
        for own, other in ("ab", "ba")
    ]
    plan = plan_file.parent / "pair.yaml"
    plan.write_text(json.dumps({"name": "pair", "about": "a", "stages": stages}))
    assert run_all(stages_of(plan, tmp_path / "run"), jobs=2) == ["a", "b"]


def test_what_runs_beside_a_stage_that_fails_is_ended(plan_file: Path, tmp_path: Path) -> None:
    (plan_file.parent / "number.py").write_text("int('no')")
    (plan_file.parent / "other.py").write_text("import time\ntime.sleep(600)")
    stages = stages_of(plan_file, tmp_path)
    before = time.monotonic()
    with pytest.raises(StageError, match="stage 'numbers' failed"):
        run_all(stages, only=("numbers", "other"), jobs=2)
    assert time.monotonic() - before < 60
    assert stages["other"].record() is None


def test_the_time_of_a_schedule(plan_file: Path, tmp_path: Path) -> None:
    """numbers 2, then the two doubles of 3 each; other, 4, waits for nobody."""
    todo = list(stages_of(plan_file, tmp_path).values())
    minutes = {"numbers": 2.0, "double-0": 3.0, "double-1": 3.0, "other": 4.0}
    assert schedule_minutes(todo, minutes, 1) == 12
    assert schedule_minutes(todo, minutes, 2) == 7  # double-0 from 2 on, double-1 once other has ended, at 4
    assert schedule_minutes(todo, minutes, 3) == 5
    assert schedule_minutes([], {}, 2) == 0


@pytest.mark.parametrize(("jobs", "asked", "threads"), [(1, None, None), (2, None, 4), (16, None, 1), (2, "3", 3)])
def test_stages_at_once_divide_the_threads(monkeypatch, jobs: int, asked: str | None, threads: int | None) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert divide_threads(jobs).get("OMP_NUM_THREADS") == (None if threads is None else str(threads))


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
