"""Plans and recipes of any shape end in one line; names, seeds and values mean what a reader takes them for."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from look_again.commands.main import main
from look_again.reproduce.made import prepare
from look_again.reproduce.plan import PlanError
from look_again.reproduce.plan_checks import check_recipes, endpoint_urls
from look_again.reproduce.plan_file import load_plan, read_lines

HEAD = "name: n\nabout: a\n"
LAUGHS = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [{', '.join([f'*{m}'] * 6)}]\n" for m, n in pairwise("abcdefghij"))
STAGE = "name: a, step: 1, about: s, run: [python x], makes: m"


def write(folder: Path, stages: str, rest: str = "") -> Path:
    (folder / "r.yaml").write_text("v: 1\n")
    path = folder / "plan.yaml"
    path.write_text(f"{HEAD}{rest}stages:\n{stages}")
    return path


def with_command(command: str) -> str:
    return STAGE.replace("python x", f'"{command}"')


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "stages: 5\n",
        HEAD + "stages: [5]\n",
        HEAD + "stages: []\n",
        HEAD + "stages: [{step: 1}]\n",
        HEAD + f"stages: [{{{STAGE}}}]\nquick: 5\n",
        HEAD + f"stages: [{{{STAGE}}}]\nquick: {{a: 5}}\n",
        HEAD + f"stages: [{{{STAGE}}}]\nquick: {{a: {{change: }}}}\n",
        HEAD + f"stages: [{{{STAGE}}}]\nquick: {{values: 5}}\n",
        HEAD + f"stages: [{{{STAGE}}}]\nquick: {{b: {{}}, 5: {{}}}}\n",
        HEAD + f"stages: [{{{STAGE}}}]\nvalues: [1]\n",
        HEAD + f"stages: [{{{STAGE}}}]\nvalues: {{1: 2}}\n",
        HEAD + f"stages: [{{{STAGE}, cost: }}]\n",
        HEAD + f"stages: [{{{STAGE}, change: [1]}}]\n",
        HEAD + f"stages: [{{{STAGE}, change: {{5: 1}}}}]\n",
        HEAD + f"stages: [{{{STAGE}, recipe: 5}}]\n",
        HEAD + f"stages: [{{{STAGE}, reads: [5]}}]\n",
        HEAD + f"stages: [{{{STAGE}, seeds: [0.5]}}]\n",
        HEAD + f"stages: [{{{STAGE}, seeds: [-1]}}]\n",
        HEAD + f"stages: [{{{STAGE}, facts: [a]}}]\n",
        HEAD + f"stages: [{{{STAGE}, cost: {{minutes: 1{'0' * 400}}}}}]\n",
        HEAD + f"stages: [{{{STAGE}, cost: {{minutes: .nan}}}}]\n",
        HEAD + f"stages: [{{{STAGE}, cost: {{money: -5}}}}]\n",
        HEAD + f"stages: [{{{STAGE}}}]\nanswers: 5\n",
        HEAD + f"stages: [{{{STAGE}}}]\ntables: [{{title: 5, metrics: {{}}, rows: [], says: x}}]\n",
        HEAD + f"stages: [{{{STAGE}}}]\nfigures: [{{title: t, image: 5, says: x}}]\n",
        "name: {a: b}\nabout: a\nstages: [{" + STAGE + "}]\n",
        "name: n\nabout:\nstages: [{" + STAGE + "}]\n",
        HEAD + "stages: [{" + STAGE.replace("step: 1", "step: 1.5") + "}]\n",
        HEAD + "stages: [{" + STAGE.replace("makes: m", "makes: ''") + "}]\n",
        HEAD + "stages: [{" + STAGE.replace("makes: m", "makes: /etc/hostname") + "}]\n",
        HEAD + "stages: [{" + STAGE.replace("makes: m", "makes: ../m") + "}]\n",
        HEAD + f"stages: [{{{STAGE}}}]\nstages: [{{{STAGE}}}]\n",
        HEAD + "stages: [&a [*a]]\n",
        HEAD + LAUGHS,
        "not: [closed\n",
        "\x07: 1\n",
        "d: 2026-02-31\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("quick", [[], ["--quick"]])
def test_a_plan_of_any_shape_ends_in_one_line(tmp_path: Path, capsys, text: str, quick: list[str]) -> None:
    """Most of these were tracebacks, some of them after the work was done."""
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    assert main(["reproduce", "--plan", str(path), "--dry-run", *quick]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "plan.yaml" in said[0]


def test_a_plan_in_another_encoding_is_named(tmp_path: Path, capsys) -> None:
    path = tmp_path / "plan.yaml"
    path.write_bytes(b"name: \xe9\n")
    assert main(["reproduce", "--plan", str(path), "--dry-run"]) == 2
    assert f"{path} is not UTF-8: byte 6 is wrong" in capsys.readouterr().err


@pytest.mark.parametrize("recipe", ["1: a\nb: c\n", "d: 2026-01-01\n", "s: !!set {a, b}\n", "b: !!binary aGk=\n"])
def test_a_recipe_holds_what_json_could(tmp_path: Path, recipe: str) -> None:
    path = write(tmp_path, f"  - {{{with_command('python x {recipe}')}, recipe: r.yaml}}\n")
    (tmp_path / "r.yaml").write_text(recipe)
    with pytest.raises(PlanError, match=r"plan\.yaml:4: stage 'a': .*r\.yaml.*put it in quotes"):
        load_plan(path)


def test_each_stage_has_values_of_its_own(tmp_path: Path) -> None:
    """Changes were written into the plan's own objects, so that seeds and stages read each other's."""
    run = '["python x {recipe}"], makes: x, recipe: r.yaml'
    path = write(
        tmp_path,
        f'  - {{name: a, step: 1, about: s, run: {run}, seeds: [0, 1], change: {{w: {{n: 5}}, w.seed: "{{seed}}"}}}}\n'
        f"  - {{name: b, step: 1, about: s, run: {run}, change: {{w: &w [{{s: 0}}, {{s: 0}}], w.0.s: 40}}}}\n"
        f"  - {{name: c, step: 1, about: s, run: {run}, change: {{w: *w, w.0.s: 80}}}}\n",
    )
    (tmp_path / "r.yaml").write_text("v: [&s {n: 1}, *s]\nt: 'runs/{seed}/x'\n".replace("{seed}", "x"))
    made = prepare(load_plan(path), tmp_path, tmp_path)
    assert [made[name].recipe["w"] for name in ("a-0", "a-1")] == [{"n": 5, "seed": 0}, {"n": 5, "seed": 1}]
    assert [made[name].recipe["w"][0]["s"] for name in "bc"] == [40, 80]
    (tmp_path / "r.yaml").write_text("w: [&s {n: 1}, *s]\n")
    path = write(tmp_path, f"  - {{name: a, step: 1, about: s, run: {run}, change: {{w.0.n: 9}}}}\n")
    (tmp_path / "r.yaml").write_text("w: [&s {n: 1}, *s]\n")
    assert prepare(load_plan(path), tmp_path, tmp_path)["a"].recipe == {"w": [{"n": 9}, {"n": 1}]}


def test_the_seed_is_put_wherever_it_stands(tmp_path: Path) -> None:
    stages = (
        '  - {name: s, step: 1, about: s, run: ["python x {out}/{seed}"], makes: "x{seed}", seeds: [0, 1],'
        ' facts: {f: "x{seed}.json#a"}}\n'
        '  - {name: a, step: 1, about: s, run: ["python x {recipe}"], makes: m, recipe: r.yaml, seeds: [0, 1],'
        ' change: {data: [{path: "{s-{seed}}/x"}]}}\n'
    )
    path = write(tmp_path, stages)
    (tmp_path / "r.yaml").write_text("seed: '{seed}'\n")
    made = prepare(load_plan(path), tmp_path, tmp_path)
    assert (made["s-1"].stage.makes, made["s-1"].stage.facts) == ("x1", {"f": "x1.json#a"})
    assert made["a-1"].recipe == {"seed": 1, "data": [{"path": "{s-1}/x"}]}
    assert made["a-1"].inputs == ("s-1",)


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (with_command("python x {seed}"), "has {seed}, and no seeds"),
        (STAGE.replace("makes: m", 'makes: "m{b}"'), "makes has {b}, which stands for nothing there"),
        (with_command("python x {Nope}"), "needs Nope, which no stage before it makes"),
        (with_command("python x {no_pe}"), "needs no_pe, which no stage before it makes"),
        (STAGE + ", seeds: [0, 1]", "'a-1' does what 'a-0' does: {seed} stands nowhere in it"),
    ],
)
def test_placeholders_that_nothing_fills_are_refused(tmp_path: Path, stage: str, message: str) -> None:
    with pytest.raises(PlanError) as refused:
        load_plan(write(tmp_path, f"  - {{{stage}}}\n"))
    assert message in str(refused.value)
    assert "plan.yaml:4" in str(refused.value)


def test_a_name_means_its_stage_and_all_of_its_seeds(tmp_path: Path, capsys) -> None:
    """`--only eval` took eval-copy with it, and a mean over seeds took stages that are called like one."""
    run = '["python x {seed}"], makes: x'
    path = write(
        tmp_path,
        f"  - {{name: a, step: 1, about: s, run: {run}, seeds: [0, 1]}}\n"
        "  - {name: a-25, step: 1, about: s, run: [python x], makes: x}\n"
        "  - {name: a-copy, step: 1, about: s, run: [python x], makes: x}\n",
    )

    def listed(*options: str) -> list[str]:
        assert main(["reproduce", "--plan", str(path), "--dry-run", "--json", *options]) == 0
        return [stage["stage"] for stage in json.loads(capsys.readouterr().out)["stages"]]

    assert listed("--only", "a") == ["a-0", "a-1"]
    assert listed("--only", "a-0", "--only", "a-copy") == ["a-0", "a-copy"]
    assert listed("--from", "a-25") == ["a-25", "a-copy"]
    assert main(["reproduce", "--plan", str(path), "--dry-run", "--only", "a-c"]) == 2
    assert "no stage is called 'a-c'; there are a, a-25, a-copy" in capsys.readouterr().err
    called = [stage.name for stage in load_plan(path).stages if stage.is_called("a-{seed}")]  # type: ignore[attr-defined]
    assert called == ["a-0", "a-1"]


def test_recipes_are_checked_however_their_command_is_started(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("lerning_rate: 5\nstages: [{name: s, task: answers, steps: 1}]\noutput: o\n")
    for command in (
        "python -m accelerate.commands.launch -m look_again train sft --config {recipe}",
        "look-again train sft --config={recipe}",
    ):
        path = tmp_path / "plan.yaml"
        stage = with_command(command)
        path.write_text(f"{HEAD}stages:\n  - {{{stage}, recipe: r.yaml}}\n")
        with pytest.raises(PlanError, match=r"plan\.yaml:4: stage 'a': .*lerning_rate"):
            check_recipes(prepare(load_plan(path), tmp_path, tmp_path), path, read_lines(path))


def test_addresses_of_commands_are_tried_too(tmp_path: Path) -> None:
    command = "look-again eval tabletop --base-url=http://127.0.0.1:9/v1"
    path = write(tmp_path, f"  - {{{STAGE.replace('python x', repr(command))}}}\n")
    made = prepare(load_plan(path), tmp_path, tmp_path)
    assert endpoint_urls(made.values()) == {"http://127.0.0.1:9/v1": "a"}


def test_files_beside_the_plan_decide_a_stage(tmp_path: Path) -> None:
    """An engine's settings named in a command, and files behind a linked folder, changed nothing."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "data").write_text("1")
    (tmp_path / "linked").symlink_to("real", target_is_directory=True)
    (tmp_path / "real" / "back").symlink_to(tmp_path / "real", target_is_directory=True)
    path = write(
        tmp_path,
        f"  - {{{with_command('python x {plan}/engine.yaml')}, reads: [linked]}}\n",
    )
    (tmp_path / "engine.yaml").write_text("stage: 3\n")
    keys = {prepare(load_plan(path), tmp_path, tmp_path)["a"].key}
    (tmp_path / "engine.yaml").write_text("stage: 2\n")
    keys.add(prepare(load_plan(path), tmp_path, tmp_path)["a"].key)
    (tmp_path / "real" / "data").write_text("2")
    keys.add(prepare(load_plan(path), tmp_path, tmp_path)["a"].key)
    assert len(keys) == 3


def test_the_shipped_model_decides_stages_that_ask_it(tmp_path: Path, monkeypatch) -> None:
    runs = ("look-again eval tabletop --n 1", "look-again eval tabletop --n 1 --model x", "look-again tabletop make")
    stages = "".join(
        f"  - {{name: {name}, step: 1, about: s, run: [{run}], makes: m}}\n"
        for name, run in zip("abc", runs, strict=True)
    )
    path = write(tmp_path, stages)
    (tmp_path / "weights").write_text("1")
    monkeypatch.setattr("look_again.reproduce.made._find_shipped", lambda: tmp_path / "weights")
    first = prepare(load_plan(path), tmp_path, tmp_path)
    (tmp_path / "weights").write_text("2")
    second = prepare(load_plan(path), tmp_path, tmp_path)
    assert [name for name in "abc" if first[name].key != second[name].key] == ["a"]


def test_the_plans_that_are_shipped_are_yaml_without_surprises() -> None:
    for path in (Path(__file__).parents[2] / "recipes").rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict)
