"""PolyMATH in its image folders: metadata.csv beside the screenshots."""

from __future__ import annotations

import csv
from pathlib import Path

import huggingface_hub
import pytest

from look_again.data.checks import check_samples
from look_again.data.image_files import image_size
from tests.data.sources.mixture_rows import load, right

HEADER = [
    "file_name",
    "question_text",
    "answer_option",
    "category",
    "final_answer_range",
    "contains_diagram",
    "diagram_description",
    "final_answer",
]
NOT_READ = ("Question could be extracted from image", "Answer could be extracted from image")


def line(number: int, answer: str, options: str = "(1) 6 (2) 8 (3) 12 (4) 14", question: str = "441 : 7 :: 576 : ?"):
    return [f"9dd3_q{number}.png", question, options, "pattern_recognition", " 1-4", "FALSE", "No\nDiagram", answer]


def write(folder: Path, split: str, *lines: list[str], header: list[str] = HEADER) -> Path:
    path = folder / split / "metadata.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *lines])
    return path


@pytest.fixture
def folder(tmp_path: Path, encoded) -> Path:
    write(tmp_path, "testmini", line(2, "1"))
    write(tmp_path, "testmini_img", line(2, "1"), line(3, "1"))
    write(tmp_path, "test", *(line(number, "2") for number in (1, 2, 3, 4)))
    (tmp_path / "test" / "9dd3_q1.png").write_bytes(encoded(40, 20))
    return tmp_path


def shown(folder: Path, *lines: list[str]):
    write(folder, "test", *lines)
    return load("polymath", folder)


def test_training_leaves_both_small_splits_out(folder: Path) -> None:
    rows, bad = load("polymath", folder)
    assert not bad
    assert [(row.id, row.split) for row in rows] == [("polymath-9dd3_q1", "train"), ("polymath-9dd3_q4", "train")]
    assert image_size(rows[0].images[0]) == (40, 20)
    with pytest.raises(ValueError, match="split 'test' of polymath is what benchmarks evaluate on"):
        load("polymath", folder, split="test")
    assert len(load("polymath", folder, split="test", on_benchmark="allow")[0]) == 4
    good, lost = check_samples(rows, needs_response=False, progress=False)
    assert [row.id for row in good] == ["polymath-9dd3_q1"]
    assert "9dd3_q4.png" in lost[0].reason


def test_numbered_options_become_letters(folder: Path) -> None:
    """Option 2 is 8: graded as the number 2, the right value would fail and an option of that value would pass."""
    row = load("polymath", folder)[0][0]
    assert row.prompt == "441 : 7 :: 576 : ?\nA. 6\nB. 8\nC. 12\nD. 14"
    assert row.reference == "B"
    assert right(row, "B")
    assert right(row, "8")
    assert not right(row, "12")


@pytest.mark.parametrize(
    ("options", "answer", "texts", "reference"),
    [
        ("(a) 11 (b) 3 (c) 4 (d) 9", "2", ("11", "3", "4", "9"), "B"),
        ("(A) I follows(B) II follows (C) both(D) none", "D", ("I follows", "II follows", "both", "none"), "D"),
        ("1. 5:26 2. 6:37 3. 2.5 4. 26:5", "4", ("5:26", "6:37", "2.5", "26:5"), "D"),
        ("1) 0 2) 1 3) 2 4) 3", "1", ("0", "1", "2", "3"), "A"),
        ("(1) 4 (2) 6 (3) 7 (4) 3 (5) 10", "5", ("4", "6", "7", "3", "10"), "E"),
        ("(1) 13 (2) 17", "b", ("13", "17"), "B"),
    ],
)
def test_options_as_they_are_written(folder, options, answer, texts, reference) -> None:
    rows, _ = shown(folder, line(1, answer, options))
    assert (rows[0].options, rows[0].reference) == (texts, reference)
    right(rows[0], "A")


@pytest.mark.parametrize(
    ("options", "answer", "reference"),
    [
        ("(1) (2) (3) (4)", "3", "3"),
        ("(A) (B) (C) (D)", "3", "C"),
        ("(1) (2) (3) (4)", "B", "2"),
        ("(A) (1) (B) (2)", "B", "B"),
    ],
)
def test_drawn_options_are_named_by_their_labels(folder, options, answer, reference) -> None:
    """The texts are in the picture; without the labels in the question any numbering would be a guess."""
    rows, _ = shown(folder, line(1, answer, options, "Which figure?"))
    assert (rows[0].prompt, rows[0].reference) == (f"Which figure?\n{options}", reference)
    assert right(rows[0], f"({reference})")


@pytest.mark.parametrize("question", ["None", "", NOT_READ[0]])
def test_unread_question_asks_for_the_picture(folder: Path, question: str) -> None:
    """Otherwise the model would be asked "None"."""
    rows, _ = shown(folder, line(1, "C", NOT_READ[1], question))
    assert (rows[0].prompt, rows[0].reference) == ("Answer the question in the image.", "C")


def test_bad_rows_are_named(folder: Path) -> None:
    rows, bad = shown(folder, line(1, "5"), line(4, "1,3"), line(5, ""), line(6, "2")[:4], ["", *line(7, "2")[1:]])
    assert rows == []
    assert "there are 4 options" in bad["polymath-9dd3_q1"]
    assert "final_answer is '1,3'" in bad["polymath-9dd3_q4"]
    assert "final_answer is ''" in bad["polymath-9dd3_q5"]
    assert "no final_answer: the line is cut off" in bad["metadata.csv line 8"]
    assert "no picture" in bad["polymath-train-4"]


def test_repeated_pictures_are_counted(folder: Path) -> None:
    rows, bad = shown(folder, line(1, "2"), line(1, "3"))
    assert [row.reference for row in rows] == ["B"]
    assert "occurs twice" in bad["polymath-9dd3_q1"]


def test_what_was_looked_for_is_said(folder: Path, tmp_path: Path) -> None:
    write(folder, "test", header=["file_name", "question", "final_answer"])
    with pytest.raises(ValueError, match="no column question_text, answer_option: looked for file_name"):
        load("polymath", folder)
    (folder / "testmini_img" / "metadata.csv").unlink()
    with pytest.raises(
        ValueError, match=r"no table of testmini_img: looked for .*/testmini_img/metadata\.csv and .*data"
    ):
        load("polymath", folder)
    with pytest.raises(ValueError, match="neither a folder nor a hub name such as him1411/polymath"):
        load("polymath", tmp_path / "gone")


def test_hub_name_downloads_what_is_needed(folder: Path, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda name, **options: asked.append((name, options)) or str(folder)
    )
    assert load("polymath", "him1411/polymath")[0]
    assert asked[0][1]["allow_patterns"] == ["test/*", "testmini/metadata.csv", "testmini_img/metadata.csv"]
