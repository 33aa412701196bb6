"""Plans are read whole, and what would fail later is refused by name and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from look_again.commands.reproduce import complain
from look_again.reproduce.made import prepare
from look_again.reproduce.plan import PlanError
from look_again.reproduce.plan_checks import check_commands, check_recipes
from look_again.reproduce.plan_file import load_plan, read_lines

BOX = Path(__file__).parents[2] / "recipes" / "box"
PIPELINES = ("tabletop", "qwen2_5_vl_7b")


@pytest.mark.parametrize("path", sorted(BOX.glob("*.yaml")), ids=lambda path: path.stem)
@pytest.mark.parametrize("quick", [False, True])
def test_the_shipped_plans_their_recipes_and_their_commands_can_be_read(
    path: Path, quick: bool, tmp_path: Path
) -> None:
    stages = prepare(load_plan(path, quick=quick), path.parent, tmp_path)
    check_commands(stages, path, read_lines(path), complain)
    check_recipes(stages, path, read_lines(path))
    steps = [one.stage.step for one in stages.values()]
    assert steps == sorted(steps)
    if path.stem in PIPELINES:
        assert set(steps) >= {1, 2, 3, 4, 5, 6}


def test_both_pipelines_are_shipped() -> None:
    assert {path.stem for path in BOX.glob("*.yaml")} >= set(PIPELINES)


def test_every_estimate_of_the_papers_plan_has_a_source() -> None:
    assert all(stage.cost.source for stage in load_plan(BOX / "qwen2_5_vl_7b.yaml").stages)


def test_seeds_are_written_out(plan_file: Path) -> None:
    assert [stage.name for stage in load_plan(plan_file).stages] == ["numbers", "double-0", "double-1", "other"]
    assert [stage.name for stage in load_plan(plan_file, quick=True).stages] == ["numbers", "double-0", "other"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("{numbers}/n.txt", "{gone}/n.txt", r"small\.yaml:11: stage 'double-0' needs gone, which no stage before it"),
        ("recipe: numbers.yaml", "recipe: gone.yaml", r"small\.yaml:5: stage 'numbers': cannot read the recipe .*gone"),
        ("name: other", "name: numbers", r"stage 'numbers' is there twice"),
        ("step: 1", "step: 9", r"small\.yaml:5: stages 'numbers': step is 9"),
        ("makes: n.txt", "makes: n.txt\n    wants: much", r"unknown keys \['wants'\]"),
        ("makes: n.txt", "makes: n.txt\n    change: {a.b: 1}", r"change 'a\.b': the recipe has no such place"),
        ("{double-{seed}}/result", "{treble}/result", r"the report shows '\{treble\}/result.json'"),
        ("seeds: [0]\n", "nobody: {}\n", r"quick has \['nobody'\]"),
        ('["python ', '["rm -rf ', r"a command begins with look-again or python"),
        ("quick:\n", "jobs: 0\nquick:\n", r"jobs is 0: at least one stage runs at a time"),
        ("quick:\n", "jobs: two\nquick:\n", r"jobs is a whole number, not 'two'"),
        ("quick:\n", "values: {numbers: 1}\nquick:\n", r"values has \['numbers'\], which stands for something else"),
        ("quick:\n", "values: {out: 1}\nquick:\n", r"values has \['out'\], which stands for something else"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(plan_file: Path, before: str, after: str, message: str) -> None:
    text = plan_file.read_text()
    assert before in text
    plan_file.write_text(text.replace(before, after, 2 if "double-{seed}" in before else 1))
    with pytest.raises(PlanError, match=message):
        load_plan(plan_file, quick=True)


def test_a_recipe_of_another_base_or_with_a_wrong_value_is_refused(tmp_path: Path) -> None:
    for name, change, message in (
        ("a", "stages: [{name: s, task: answers, steps: 0}]\nbase: one\noutput: o", "steps"),
        ("b", "stages: [{name: s, task: answers, steps: 1}]\nbase: two\noutput: o", "another base than the plan's"),
    ):
        (tmp_path / f"{name}.yaml").write_text(change + "\n")
        first = "stages: [{name: s, task: answers, steps: 1}]\nbase: one\noutput: o\n"
        (tmp_path / "first.yaml").write_text(first)
        plan = tmp_path / "plan.yaml"
        plan.write_text(
            "name: n\nabout: a\nstages:\n"
            + "".join(
                f"  - {{name: {stage}, step: 1, about: x, run: ['look-again train sft --config {{recipe}}'], "
                f"recipe: {recipe}.yaml, makes: y}}\n"
                for stage, recipe in (("start", "first"), ("next", name))
            )
        )
        with pytest.raises(PlanError, match=rf"plan\.yaml:5: stage 'next'.*{message}"):
            check_recipes(prepare(load_plan(plan), tmp_path, tmp_path), plan, read_lines(plan))


def test_values_stand_in_stages_and_a_quick_run_has_its_own(plan_file: Path) -> None:
    text = plan_file.read_text().replace("{out}/x.txt", "{out}/x.txt {amount} of {amount}")
    text = text.replace("needs nothing", "{amount}").replace(
        "makes: x.txt", "makes: x.txt\n    cost: {minutes: '{amount}'}"
    )
    plan_file.write_text(
        text.replace("quick:\n", "values: {amount: 7}\nquick:\n  values: {amount: 2}\n").replace("{amount}\n", "some\n")
    )
    for quick, amount in ((False, 7), (True, 2)):
        other = load_plan(plan_file, quick=quick).stages[-1]
        assert other.run[0].endswith(f"x.txt {amount} of {amount}")
        assert other.cost.minutes == amount


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("look-again evaluate tabletop", "there is no such command; there are ask, "),
        ("look-again eval tabletop --nn 4", "unrecognized arguments: --nn 4"),
        ("look-again eval tabletop --n many", "argument --limit/--n: invalid int value: 'many'"),
        ("look-again", "there is no such command"),
    ],
)
def test_a_command_that_would_be_refused_is_refused_before_anything_runs(
    plan_file: Path, tmp_path: Path, command: str, message: str
) -> None:
    lines = plan_file.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if "other.py" in line)
    lines[at] = f"    run: [{command!r}]"
    plan_file.write_text("\n".join(lines))
    with pytest.raises(PlanError) as refused:
        check_commands(
            prepare(load_plan(plan_file), plan_file.parent, tmp_path), plan_file, read_lines(plan_file), complain
        )
    assert f"small.yaml:18: stage 'other' runs {command!r}: {message}" in str(refused.value)
