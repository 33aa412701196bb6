"""The study of distance, end to end on the shipped model, and its refusals."""

from __future__ import annotations

import json

import pytest

from look_again.commands.main import main
from look_again.study.experiment import _limits
from look_again.study.settings import StudySettings, build_settings, check_context
from look_again.tabletop.long_world.long_work import make_long_sample
from look_again.tabletop.render import render
from look_again.weights.sources import default_checkpoint

SMALL = ["--lengths", "100", "--arms", "text,copy", "--n", "10", "--n-other", "10", "--batch", "10"]


def test_a_study_of_one_length_resumes_and_refuses_another_studys_folder(tmp_path, capsys):
    out = tmp_path / "study"
    assert main(["study", "distance", "--out", str(out), *SMALL, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((out / "result.json").read_text())
    assert result["complete"]
    assert [(cell["arm"], cell["n"]) for cell in result["cells"]] == [("text", 10), ("copy", 10)]
    assert all(cell["mended_interval"][0] <= cell["mended"] <= cell["mended_interval"][1] for cell in result["cells"])
    assert {(gap["base_arm"], gap["arm"], gap["score"]) for gap in result["differences"]} == {
        (base, arm, score) for base, arm in (("text", "copy"), ("copy", "text")) for score in ("mended", "answers")
    }
    assert 100 < result["distance"][0]["mean"] < 150
    assert (out / "figure.svg").read_text().startswith("<svg")
    assert "| copy | 10 |" in (out / "table.md").read_text()
    (out / "cells" / "model-0" / "100" / "copy" / "rows-0-10" / "result.json").unlink()  # as a kill leaves it
    assert main(["study", "distance", "--out", str(out), *SMALL, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert [cell["mended"] for cell in again["cells"]] == [cell["mended"] for cell in result["cells"]]
    assert main(["study", "distance", "--out", str(out), *SMALL, "--seed", "1"]) == 2
    assert "holds another study (seed was 0, now 1" in capsys.readouterr().err


def test_keys_that_are_rotated_are_an_arm_where_the_family_has_them(tmp_path, capsys, monkeypatch):
    options = ["study", "distance", "--out", str(tmp_path / "study"), *SMALL, "--arms", "text,copy,copy-rotated"]
    assert main([*options, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)["cells"]
    assert [cell["arm"] for cell in cells] == ["text", "copy", "copy-rotated"]
    configuration = tmp_path / "study" / "cells" / "model-0" / "100" / "copy-rotated" / "rows-0-10" / "config.json"
    assert '"reuse": "rotated"' in configuration.read_text()
    monkeypatch.setattr("look_again.core.reuse.rotated_keys.ROTATED_FAMILIES", ())
    assert main([*options, "--out", str(tmp_path / "other")]) == 2
    assert 'reuse="rotated" is made for' in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_rows_of_ones_own_are_scored_by_their_answers(tmp_path, capsys):
    folder = tmp_path / "rows"
    folder.mkdir()
    lines = []
    for index in range(10):
        row = make_long_sample("test", 1, index, pieces=120)
        render(row.scene).save(folder / f"{index}.png")
        line = {"id": row.id, "image": f"{index}.png", "question": row.prompt, "answer": row.answer}
        lines.append(json.dumps(line | {"beginnings": {"120": row.beginning}}))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    options = ["--lengths", "120", *SMALL[2:], "--rows", str(folder), "--json"]
    assert main(["study", "distance", "--out", str(tmp_path / "out"), *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert all(0.5 < cell["answers"] <= 1 and "mended" not in cell for cell in result["cells"])
    (folder / "rows.jsonl").write_text(lines[0].replace("<REFLECTION>", "") + "\n")
    assert main(["study", "distance", "--out", str(tmp_path / "other"), *options]) == 2
    assert "line 1: the beginning of 120 tokens does not end in <REFLECTION>" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--n", "9"], "--n is 9: a cell needs at least 10 rows"),
        (["--lengths", "100,5000"], "100 to 4000 tokens of work, not [100, 5000]"),
        (["--lengths", "4000"], "4000 tokens of work do not fit: the model's context is 4096"),
        (["--lengths", "far"], "--lengths are numbers with commas between them, not 'far'"),
        (["--arms", "text,copy,tex"], "unknown arm 'tex'"),
        (["--arms", "copy"], "a study compares with text and copy"),
        (["--split", "train"], "no split 'train'"),
        (["--jobs", "0"], "--batch and --jobs are at least 1"),
        (["--quick"], "--quick has lengths, arms and rows of its own: leave out --lengths, --arms, --n, --n-other or"),
    ],
)
def test_what_cannot_be_run_is_said_before_any_work(tmp_path, capsys, options, error):
    assert main(["study", "distance", "--out", str(tmp_path / "out"), *SMALL, *options]) == 2
    assert error in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_same_weights_twice_are_refused(tmp_path, capsys):
    """Two trainings that are one would make every interval narrower."""
    shipped = str(default_checkpoint())
    out = tmp_path / "out"
    assert main(["study", "distance", "--out", str(out), *SMALL, "--model", shipped, "--model", shipped]) == 2
    assert f"--model {shipped} holds the weights of {shipped}: name each training seed once" in capsys.readouterr().err
    assert not out.exists()


def test_two_models_have_a_limit_of_their_own():
    assert "2 trained models: intervals over so few are too narrow" in _limits(StudySettings(models=("a", "b")))[0]
    assert "one trained model" in _limits(StudySettings())[0]


def test_the_context_has_room_for_two_images_a_question_and_an_answer():
    check_context([3700], 4096, 36)
    with pytest.raises(ValueError, match="which leaves 3736"):
        check_context([3737], 4096, 36)


@pytest.mark.parametrize(
    ("option", "value"), [("lengths", (500,)), ("arms", ("text", "copy")), ("n", 20), ("n_other", 9)]
)
def test_quick_takes_no_numbers_beside_its_own(option, value):
    with pytest.raises(ValueError, match=f"leave out --{option.replace('_', '-')} or --quick"):
        build_settings("distance", quick=True, **{option: value})
    assert build_settings("distance", quick=True, batch=5).batch == 5


def test_other_arms_take_fewer_rows():
    settings = StudySettings(n=300, n_other=100)
    assert [settings.items(arm) for arm in ("text", "route-50", "user-turn")] == [300, 300, 100]
