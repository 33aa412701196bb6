"""Geometry3K in the hub's tables and in Inter-GPS's folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from look_again.data.checks import check_samples
from look_again.data.image_files import image_size
from tests.data.sources.mixture_rows import load, right, table


def problem(**fields: Any) -> dict[str, Any]:
    return {
        "problem_text": "In \\odot X, A B = 30. Find m \\widehat A B.",
        "choices": ["30", "40", "60", "80"],
        "answer": "D",
        "problem_type_graph": ["Circle"],
        "id": 11,
        "compact_text": "In \\odot X, AB = 30. Find m \\widehat AB.",
        "annotat_text": "In $\\odot X, A B=30$. Find $m\\widehat{A B}$",
        "data_type": "train",
    } | fields


@pytest.fixture
def write(tmp_path: Path, encoded):
    def one(number: int | str, content: Any, split: str = "train", image: bool = True) -> Path:
        folder = tmp_path / split / str(number)
        folder.mkdir(parents=True)
        if content is not None:
            (folder / "data.json").write_text(content if isinstance(content, str) else json.dumps(content))
        if image:
            (folder / "img_diagram.png").write_bytes(encoded(50, 40))
        return tmp_path

    return one


def test_folders_of_inter_gps(write) -> None:
    """Asked with its choices; the letter is the reference. Folders by number, not by name."""
    write(100, problem(choices=["1", "2", "3", "4"], answer="A"))
    folder = write(11, problem())
    rows, bad = load("geometry3k", folder)
    assert not bad
    assert [row.id for row in rows] == ["geometry3k-11", "geometry3k-100"]
    assert rows[0].question == "In $\\odot X, A B=30$. Find $m\\widehat{A B}$"
    assert (rows[0].options, rows[0].reference) == (("30", "40", "60", "80"), "D")
    assert image_size(rows[0].images[0]) == (50, 40)
    assert right(rows[0], "D")
    assert right(rows[0], "80")
    assert not right(rows[0], "A")


def test_splits(write) -> None:
    write(1, problem())
    write(2, problem(), split="val")
    folder = write(3, problem(), split="test")
    assert [row.id for row in load("geometry3k", folder, split="validation")[0]] == ["geometry3k-2"]
    with pytest.raises(
        ValueError, match="split 'test' of geometry3k is what benchmarks evaluate on: use train or valid"
    ):
        load("geometry3k", folder, split="test")
    assert load("geometry3k", folder, split="test", on_benchmark="allow")[0][0].id == "geometry3k-3"
    with pytest.raises(ValueError, match="split is 'val': for geometry3k use one of train, validation, test"):
        load("geometry3k", folder, split="val")


def test_other_spellings_of_the_question(write) -> None:
    write(1, problem(annotat_text=""))
    folder = write(2, problem(annotat_text=None, compact_text=None))
    rows, _ = load("geometry3k", folder)
    assert "AB = 30" in rows[0].question
    assert "A B = 30" in rows[1].question


def test_bad_folders_are_named(write) -> None:
    write(1, problem(answer="E"))
    write(2, '{"problem_text": "cut')
    write(3, None)
    write(4, problem(annotat_text=None, compact_text=None, problem_text=None))
    write(5, problem(choices="30, 40"))
    write(6, problem(answer=None))
    folder = write(7, problem(), image=False)
    rows, bad = load("geometry3k", folder)
    assert [row.id for row in rows] == ["geometry3k-7"]
    assert "img_diagram.png" in check_samples(rows, needs_response=False, progress=False)[1][0].reason
    for number, reason in enumerate(
        ["'E' is none of the 4 options", "not JSON", "cannot be read", "annotat_text is None", "a list of texts"], 1
    ):
        assert reason in bad[f"geometry3k-{number}"]
    assert "no reference answer" in bad["geometry3k-6"]


def published(number: int | None, answer: str | None, image: dict[str, Any] | None) -> dict[str, Any]:
    images = [] if image is None else [image]
    row = {"images": images, "problem": "<image>Find $x$.", "answer": answer, "choices": ["1", "2"]}
    return row if number is None else row | {"id": number, "ground_truth": "B"}


def test_tables_of_the_hub(tmp_path: Path, encoded) -> None:
    """Asked openly, with and without the columns of newer versions; math-verify grades what is no number."""
    image = {"bytes": encoded(50, 40), "path": None}
    rows = [published(7, "12 \\sqrt { 3 }", image), published(8, "48", None), published(7, "1", image)]
    table(tmp_path / "new" / "data" / "train-00000-of-00001.parquet", [*rows, published(9, None, image)])
    found, bad = load("geometry3k", tmp_path / "new")
    assert [(row.id, row.prompt, row.reference) for row in found] == [
        ("geometry3k-7", "Find $x$.", "12 \\sqrt { 3 }"),
    ]
    assert right(found[0], r"$\sqrt{432}$")
    assert "1 image placeholders for 0 images" in bad["geometry3k-8"]
    assert "no reference answer" in bad["geometry3k-9"]
    assert "occurs twice" in bad["geometry3k-7"]
    table(tmp_path / "old" / "data" / "train-00000-of-00001.parquet", [published(None, "48", image)])
    assert load("geometry3k", tmp_path / "old")[0][0].id == "geometry3k-train-0"


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"cannot be loaded.*nor is there a folder .*/train of <number>/data\.json"):
        load("geometry3k", tmp_path / "empty")
