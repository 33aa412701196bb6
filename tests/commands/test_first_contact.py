"""The first ten minutes: what somebody meets who brings a photo, words and a wrong guess of their own."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest
from PIL import Image

from look_again.commands.main import main
from look_again.extras import MissingExtraError, require
from look_again.pipeline.review.decisions import ReviewError, shown_item
from look_again.pipeline.review.session import _parse_seen
from look_again.tabletop.people.foreign_images import draw_foreign
from look_again.tabletop.people.tabletop_scope import TABLETOP_SCOPE, shows_table
from look_again.tabletop.render import render
from look_again.tabletop.samples import make_sample

TABLE = "examples/table.png"


@pytest.fixture(autouse=True)
def _root(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


def test_a_photo_of_ones_own_is_told_to_be_none_of_the_models(tmp_path, capsys):
    """A number as the answer to a portrait, with exit status 0 and no word about it."""
    draw_foreign("face", 1).save(tmp_path / "me.png")
    assert main(["ask", str(tmp_path / "me.png"), "What is this person wearing?", "--max-new-tokens", "20"]) == 0
    out = capsys.readouterr().out
    assert "note: this image is none of Tabletop's drawn scenes" in out
    assert "Qwen/Qwen3-VL-2B-Instruct (4.3 GB to download)" in out


def test_a_question_that_is_not_answered_shows_three_that_are(capsys):
    assert main(["ask", TABLE, "How many red objects are there?", "--max-new-tokens", "5"]) == 0
    out = capsys.readouterr().out
    assert "a1 (top left) to f6 (bottom right)" in out
    assert all(question in out for question in TABLETOP_SCOPE.questions)


def test_a_good_answer_comes_without_a_note(capsys):
    assert main(["ask", TABLE, "How many balls are there? Answer briefly."]) == 0
    captured = capsys.readouterr()
    assert "note:" not in captured.out + captured.err
    assert captured.out.rstrip().splitlines()[-2] == "4"


def test_problems_stand_in_one_line(capsys):
    assert main(["ask", TABLE, "How many balls are there?", "--max-new-tokens", "2"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not well formed")]
    assert len(lines) == 1
    assert "unclosed SUMMARY, missing CAPTION" in lines[0]


def test_programs_are_told_as_well(tmp_path, capsys):
    draw_foreign("chart", 2).save(tmp_path / "chart.png")
    argv = ["ask", str(tmp_path / "chart.png"), "Which bar is the highest?", "--max-new-tokens", "8", "--json"]
    assert main(argv) == 0
    (note,) = json.loads(capsys.readouterr().out)["notes"]
    assert note.startswith("this image is none of Tabletop's")


@pytest.mark.parametrize("side", [100, 168, 336, 500])
def test_a_scene_is_known_at_any_size(side, tmp_path):
    """A screenshot is larger, a mail's copy has been a JPEG."""
    for index in range(20):
        image = render(make_sample("test", 9, index).scene).resize((side, side))
        image.save(tmp_path / "scene.jpg", quality=70)
        assert shows_table(image), index
        assert shows_table(Image.open(tmp_path / "scene.jpg")), index


def test_questions_shown_to_newcomers_are_answered_without_a_note(capsys):
    for question in TABLETOP_SCOPE.questions:
        assert main(["ask", TABLE, question, "--json"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["notes"] == []
        assert answer["well_formed"], question


def test_the_demonstration_ends_in_words_and_a_next_step(tmp_path, capsys):
    """Figures without a reading ("16 of 20 flagged"), and nowhere to go from there."""
    assert main(["data", "demo", "--rows", "4", "--oracle", "--out", str(tmp_path / "demo")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "In words: of 4 answers of the model" in out
    assert "Rows to train on (docs/training.md): " in out
    assert "data status --run " in out
    (command,) = re.findall(r"look-again (data status --run \S+)", out)
    assert main(command.split()) == 0  # as printed: it asked for a file that nobody had written
    assert "distil" in capsys.readouterr().out


def test_the_demonstration_names_a_missing_package_before_it_works(tmp_path, monkeypatch, capsys):
    """Two stages had run before "this needs pyarrow"."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "pyarrow" else find(name, *rest)
    )
    assert main(["data", "demo", "--rows", "4", "--oracle", "--out", str(tmp_path / "demo")]) == 2
    assert "this needs pyarrow: pip install 'look-again-vlm[data]'" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_a_missing_extra_names_what_works_in_a_clone():
    with pytest.raises(MissingExtraError, match=r"pip install 'look-again-vlm\[ui\]', in a clone '\.\[ui\]'"):
        require("no_such_package", extra="ui")


def test_after_the_last_row_no_number_is_shown():
    """A row of number 4611686018427387904, which nobody has, was not under review."""
    with pytest.raises(ReviewError, match=r"^no row is shown: there is nothing to decide$"):
        shown_item(None, *_parse_seen(""))  # type: ignore[arg-type]
