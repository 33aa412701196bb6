"""`look-again data …` from a configuration to a build, and what it says of bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.data.loaders import load_samples
from look_again.data.source import Source
from look_again.pipeline.ledger.ledger import Ledger
from look_again.pipeline.run_config import load_run_config
from look_again.tabletop.demo import DemoConfig, adds_up, demo
from look_again.yaml_config import ConfigError, dump_yaml

pytest.importorskip("pyarrow")
RECIPE = """
flow: distilled
sources: [{{loader: tabletop, path: "3:{rows}", split: test}}]
endpoints:
  - {{name: model, base_url: "tabletop:?error=0.4", model: tabletop-model, price_in: 2, price_out: 10}}
  - {{name: j1, base_url: "tabletop:", model: tabletop-judge-1, price_in: 1}}
  - {{name: j2, base_url: "tabletop:", model: tabletop-judge-2}}
  - {{name: writer, base_url: "tabletop:", model: tabletop-writer}}
distil: {{model: model}}
panel: {{judges: [j1, j2], threshold: 2}}
writer: writer
review: none
{more}
"""


@pytest.fixture
def recipe(tmp_path):
    def write(rows: int = 8, more: str = "") -> str:
        path = tmp_path / "run.yaml"
        path.write_text(RECIPE.format(rows=rows, more=more))
        return str(path)

    return write


def data(*argv: str, capsys) -> tuple[int, object]:
    status = main(["data", *argv, "--json"])
    said = capsys.readouterr()
    return status, json.loads(said.out) if said.out else said.err


def test_a_run_from_rows_to_a_build(recipe, tmp_path, capsys):
    where = ("--config", recipe(), "--run", str(tmp_path / "run"))
    status, reports = data("run", *where, capsys=capsys)
    assert status == 0
    assert [(r["stage"], r["items"], r["ok"]) for r in reports] == [
        (stage, 8, 8) for stage in ("distil", "verify", "rewrite", "review")
    ]
    _, found = data("status", *where, capsys=capsys)
    assert 0 < found["panel"]["flagged"] < 8
    assert found["endpoints"]["j1"]["replies"] == 8
    assert found["endpoints"]["writer"]["replies"] == found["panel"]["flagged"]
    assert found["spent"]["money"] > 0
    _, built = data("build", *where, capsys=capsys)
    assert (built["rows"], built["rewritten"]) == (8, found["panel"]["flagged"])
    rows = list(load_samples(Source(loader="jsonl", path=str(tmp_path / "run" / "build" / "train.jsonl"))))
    assert all(f"<CONCLUSION> {row.reference}</CONCLUSION>" in (row.response or "") for row in rows)


def test_started_again_it_sends_nothing_and_another_judge_asks_only_for_itself(recipe, tmp_path, capsys):
    path = recipe()
    where = ("--config", path, "--run", str(tmp_path / "run"))
    data("run", *where, capsys=capsys)
    _, before = data("status", *where, capsys=capsys)
    data("run", *where, capsys=capsys)
    _, again = data("status", *where, capsys=capsys)
    assert again["spent"] == before["spent"]
    text = Path(path).read_text().replace("tabletop-judge-2}", "tabletop-judge-3}").replace("name: j2", "name: j3")
    Path(path).write_text(text.replace("[j1, j2]", "[j1, j3]"))
    data("run", *where, capsys=capsys)
    _, after = data("status", *where, capsys=capsys)
    assert {name: part["replies"] for name, part in after["endpoints"].items() if name != "writer"} == {
        "model": 8,
        "j1": 8,
        "j2": 8,
        "j3": 8,
    }


def test_a_run_whose_rows_are_all_refused_says_so(recipe, tmp_path, capsys, write_lines):
    """It ended with status 0 and not a word, and the build then had nothing to build."""
    rows = write_lines(
        tmp_path / "rows.jsonl", *({"id": str(i), "question": "Q?", "image": "gone.png"} for i in range(3))
    )
    path = Path(recipe())
    path.write_text(
        path.read_text().replace('loader: tabletop, path: "3:8", split: test', f"loader: jsonl, path: {rows}")
    )
    where = ("--config", str(path), "--run", str(tmp_path / "run"))
    for argv in (("run", *where), ("distil", *where), ("run", *where)):
        status, said = data(*argv, capsys=capsys)
        assert status == 2
        assert "all 3 rows are refused" in said
        assert "gone.png" in said
    rows.write_text("")
    status, said = data("run", "--config", str(path), "--run", str(tmp_path / "empty"), capsys=capsys)
    assert (status, "there are no rows" in said) == (2, True)


def test_a_run_whose_rows_all_end_says_so(recipe, tmp_path, capsys, write_lines):
    """Every row bad at one stage is no success either."""
    rows = write_lines(tmp_path / "rows.jsonl", {"id": "a", "question": "Who painted this?"})
    path = Path(recipe())
    path.write_text(
        path.read_text().replace('loader: tabletop, path: "3:8", split: test', f"loader: jsonl, path: {rows}")
    )
    assert main(["data", "run", "--config", str(path), "--run", str(tmp_path / "run")]) == 1
    assert "no row has come through distil" in capsys.readouterr().err


def test_one_stage_at_a_time(recipe, tmp_path, capsys):
    where = ("--config", recipe(rows=2), "--run", str(tmp_path / "run"))
    _, reports = data("verify", *where, capsys=capsys)
    assert [(r["stage"], r["items"]) for r in reports] == [("verify", 0)]
    data("distil", *where, capsys=capsys)
    _, reports = data("verify", *where, capsys=capsys)
    assert [(r["stage"], r["ok"]) for r in reports] == [("verify", 2)]
    assert main(["data", "cold-start", *where]) == 2
    assert "no stage cold-start" in capsys.readouterr().err


def test_a_spent_budget_is_said_by_the_status(recipe, tmp_path, capsys):
    where = ("--config", recipe(more="budget: {tokens: 700}"), "--run", str(tmp_path / "run"))
    assert main(["data", "run", *where]) == 3
    assert "stopped: the budget of 700 (tokens) is spent" in capsys.readouterr().out
    assert main(["data", "status", *where]) == 0
    assert "rows: 8 ok" in capsys.readouterr().out


def test_rows_of_an_evaluation_set_are_refused_or_dropped(recipe, tmp_path, capsys):
    more = 'evaluation: [{loader: tabletop, path: "3:2", split: test}]'
    where = ("--config", recipe(rows=4, more=more), "--run", str(tmp_path / "run"))
    data("run", *where, capsys=capsys)
    status, said = data("build", *where, capsys=capsys)
    assert status == 2
    assert "is in an evaluation set" in said
    recipe(rows=4, more=f"{more}\non_overlap: drop")
    _, built = data("build", *where, capsys=capsys)
    assert (built["rows"], built["left_out"]) == (2, {"shared with an evaluation set": 2})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("flow: distilled", "flow: other"), "flow is 'other'"),
        (("writer: writer", "writer: nobody"), "no endpoints ['nobody']"),
        (("threshold: 2", "threshold: 3"), "threshold is 3"),
        (("review: none", "reviews: none"), "unknown keys ['reviews']"),
        (("distil: {model: model}", "distil: {}"), "either a model"),
        (("name: j2", "name: j1"), "a name of its own"),
        (("{name: model,", "{name: model, key: sk-1,"), "unknown keys ['key']"),
    ],
)
def test_configurations_that_cannot_be(recipe, change, reason):
    path = Path(recipe())
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ConfigError) as caught:
        load_run_config(path)
    assert reason in str(caught.value)


def test_one_bound_of_pixels_for_all_who_see_the_images(recipe):
    """What a judge sees is what the student sees; a bound of one's own stays."""
    path = Path(recipe(more="max_pixels: 50000"))
    path.write_text(path.read_text().replace("model: tabletop-judge-2}", "model: tabletop-judge-2, max_pixels: 9000}"))
    config = load_run_config(path)
    assert {end.name: end.max_pixels for end in config.endpoints} == {
        "model": 50_000, "j1": 50_000, "j2": 9_000, "writer": 50_000,
    }  # fmt: skip
    assert config.distil.max_pixels == 50_000


def test_no_run_no_status(recipe, tmp_path, capsys):
    assert main(["data", "status", "--config", recipe(), "--run", str(tmp_path / "nowhere")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_run_without_a_named_configuration(tmp_path, capsys):
    with Ledger(tmp_path / "run"):
        pass
    assert main(["data", "status", "--run", str(tmp_path / "run")]) == 2
    assert "holds no run.yaml: name the run's configuration with --config" in capsys.readouterr().err


@pytest.mark.parametrize("oracle", [False, True])
def test_the_demonstration_writes_its_configurations(tmp_path, oracle):
    config = DemoConfig(rows=3, oracle=oracle, faults=0.1, threshold=3)
    for made in (config.cold_start(), config.distilled()):
        (tmp_path / "run.yaml").write_text(dump_yaml(made))
        assert load_run_config(tmp_path / "run.yaml") == made


def test_the_demonstration_adds_up(tmp_path):
    made = demo(DemoConfig(rows=12, oracle=True, error_rate=0.3), tmp_path)
    for flow in ("cold-start", "distilled"):
        assert made[flow]["adds_up"]
        assert made[flow]["rows"] == {"ok": 12}
    wrong = made["distilled"]["wrong"]
    assert wrong["distilled"]["wrong"] > wrong["built"]["wrong"]
    again = demo(DemoConfig(rows=12, oracle=True, error_rate=0.3), tmp_path)
    assert again == made, "a finished demonstration sends nothing and says the same"


def test_counts_that_do_not_add_up_are_noticed():
    stage = {"items": 3, "ok": 2, "bad": 1, "waiting": 0, "pending": 0}
    built = {"rows": 2, "left_out": {}}
    assert adds_up({"ok": 3}, {"a": stage}, built)
    assert not adds_up({"ok": 4}, {"a": stage}, built)
    assert not adds_up({"ok": 3}, {"a": stage | {"bad": 0}}, built)
    assert not adds_up({"ok": 3}, {"a": stage}, {"rows": 1, "left_out": {}})
