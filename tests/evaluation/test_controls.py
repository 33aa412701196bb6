"""The controls: every arm is a policy of the one loop, and one table compares them in pairs."""

from __future__ import annotations

import json
from html import unescape

import pytest

from look_again.commands.main import main
from look_again.core.modes import CONTROLS
from look_again.core.reattention import Reattention
from look_again.evaluation.controls import ARMS, policies, summary
from look_again.evaluation.report import controls_page
from look_again.evaluation.result_tables import control_tables
from look_again.tabletop.tiny import build_image_processor
from tests.evaluation import test_all_benchmarks_end_to_end as test_all


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model, tokenizer):
    path = tmp_path_factory.mktemp("checkpoint")
    for part in (model, tokenizer, build_image_processor()):
        part.save_pretrained(path)
    (path / "look_again.json").write_text('{"trained": true}')
    return str(path)


def test_the_arms_are_the_papers_and_every_control():
    """Would catch an arm that is another one under a new name, and a control that has none."""
    made = policies(Reattention(keep=40, delimiters=False, seed=7))
    assert {arm: (p.mode, p.keep, p.control) for arm, p in made.items() if arm != "copy"} == {
        "text": ("text", 40, None),
        "vision": ("vision", 40, None),
        "route-25": ("route", 25, None),
        "route-50": ("route", 50, None),
        "route-75": ("route", 75, None),
        "route-100": ("route", 100, None),
        "wrong-image": ("copy", 40, "wrong-image"),
        "blank-image": ("copy", 40, "blank-image"),
        "random-rows": ("route", 40, "random-rows"),
        "route-50-diversity": ("route", 50, None),
        "route-50-both": ("route", 50, None),
        "image-twice": ("image-twice", 40, None),
        "user-turn": ("user-turn", 40, None),
        "user-turn-image": ("user-turn-image", 40, None),
        "random-place": ("copy", 40, "random-place"),
    }
    assert {policy.control for policy in made.values()} == {None, *CONTROLS}
    assert all((policy.delimiters, policy.seed) == (False, 7) for policy in made.values())


def test_some_arms_can_be_chosen_and_bad_ones_are_named():
    assert list(policies(Reattention(), ["text", "copy"])) == ["copy", "text"]
    with pytest.raises(ValueError, match="'tex'; known: copy, text"):
        policies(Reattention(), ["tex"])
    with pytest.raises(ValueError, match="leave out --control wrong-image"):
        policies(Reattention(control="wrong-image"))


def run_of(scores: list[float]) -> dict:
    items = [
        {"id": str(i), "digest": "d", "facts": {"kind": "ab"[i % 2]}, "official": s, "strict": s, "score_facts": {}}
        for i, s in enumerate(scores)
    ]
    return {
        "benchmark": "fake",
        "primary": "accuracy",
        "paired": "strict",
        "metrics": {"accuracy": sum(scores) / len(scores)},
        "counts": {"items": len(scores), "unparsed": 0},
        "subsets": {"kind/a": {}},
        "tokens_per_answer": {"sampled": 10.0, "reinserted": 4.0},
        "looks_per_answer": 1.0,
        "config": {"subject": {"model": "fake", "reattention": {}}},
        "items": items,
    }


def test_every_arm_is_paired_with_copy_and_with_text():
    """By hand, of 20 items: COPY right in 16, text in 12 of these, the wrong image in 4 of those."""
    right = {"copy": 16, "text": 12, "wrong-image": 4}
    made = summary({"fake": {arm: run_of([1.0] * n + [0.0] * (20 - n)) for arm, n in right.items()}})
    part = made["benchmarks"]["fake"]
    assert {arm: facts["mean"] for arm, facts in part["arms"].items()} == {
        "copy": 0.8, "text": 0.6, "wrong-image": 0.2,
    }  # fmt: skip
    whole = {
        base: {row["run"]: row for row in one["differences"] if row["subset"] is None}
        for base, one in part["against"].items()
    }
    assert whole["copy"]["text"]["difference"] == pytest.approx(-0.2)
    assert whole["copy"]["text"]["p"] == 2 / 16
    assert whole["text"]["copy"]["difference"] == pytest.approx(0.2)
    assert whole["text"]["wrong-image"]["lower"] == 8
    assert all(row["interval"] for rows in whole.values() for row in rows.values())
    json.dumps(made, allow_nan=False)
    table = control_tables(made)[0]
    assert [row[0] for row in table.rows] == list(right)
    assert table.rows[2][2].startswith("-0.600 [-0.")
    page = unescape(controls_page(made))
    assert all(text in page for text in ("less copy", "less text", ARMS["wrong-image"][0], "<svg"))


def test_the_command_runs_every_arm_and_compares_them(tmp_path, capsys, folder):
    """End to end on a random model: each arm in its own folder under its own policy, one table, one page."""
    argv = ["eval", "tabletop", "--n", "2", "--max-new-tokens", "8", "--model", folder, "--controls"]
    assert main([*argv, "--no-planted", "--out", str(tmp_path), "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made == json.loads((tmp_path / "controls.json").read_text())
    part = made["benchmarks"]["tabletop"]
    assert list(part["arms"]) == list(ARMS)
    for arm, policy in policies(Reattention()).items():
        saved = json.loads((tmp_path / arm / "tabletop" / "result.json").read_text())
        settings = saved["config"]["subject"]["reattention"]
        assert (settings["mode"], settings["keep"], settings["control"]) == (policy.mode, policy.keep, policy.control)
    assert set(part["against"]) == {"copy", "text"}
    assert "less copy" in (tmp_path / "controls.html").read_text()
    assert main(["compare", str(tmp_path / "copy"), str(tmp_path / "text"), "--json"]) == 0
    compared = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert (compared["baseline"], compared["benchmark"]) == ("copy", "tabletop")


def test_an_arm_that_is_not_possible_is_told_of_and_the_others_are_compared(tmp_path, capsys, folder):
    """Would catch hours of arms that end in an error and no table: one image has no other to be put back."""
    test_all.pope(tmp_path / "data")
    argv = ["eval", "pope", "--path", str(tmp_path / "data"), "--max-new-tokens", "4", "--model", folder, "--controls"]
    out = tmp_path / "run"
    assert main([*argv, "--arms", "copy,text,wrong-image", "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    part = json.loads((out / "controls.json").read_text())["benchmarks"]["pope"]
    assert list(part["arms"]) == ["copy", "text"]
    assert list(part["not_possible"]) == ["wrong-image"]
    assert "needs items with different pictures" in part["not_possible"]["wrong-image"]
    page = unescape((out / "controls.html").read_text())
    for text in ("not possible", "pope: wrong-image", "different pictures"):
        assert text in page
        assert text in " ".join(shown.split())
    assert main([*argv, "--arms", "wrong-image", "--out", str(out)]) == 2
    assert "no arm is possible on pope" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--controls"], "--out RUN"),
        (["--out", "x", "--controls", "--arms", "copy,texts"], "unknown arm 'texts'"),
        (["--out", "x", "--arms", "copy"], "--arms goes with --controls"),
        (["--out", "x", "--controls", "--base-url", "http://h/v1", "--model", "m"], "no controls"),
        (["--out", "x", "--base-url", "http://h/v1"], "--model NAME"),
        (["--out", "x", "--split", "train"], "known: test, heldout, validation"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["nonsense", "--out", "x"], "unknown benchmark 'nonsense'; known: tabletop"),
        (["pope", "--out", "x", "--path", "here"], "of one benchmark"),
        (["mmhal", "--out", "x"], "--judge-url"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_go_together_is_refused_before_a_model_is_loaded(capsys, monkeypatch, tmp_path, extra, message):
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "tabletop", *extra]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
