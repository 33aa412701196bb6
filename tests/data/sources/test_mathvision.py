"""MathVision in the hub's tables and in its authors' repository; training never sees testmini."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from look_again.data.checks import check_samples
from look_again.data.image_files import image_size
from tests.data.sources.mixture_rows import load, right, table


def record(id: str, answer: str, options: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    question = "How many bricks are missing in the wall?\n<image1>"
    return {
        "id": id,
        "question": question,
        "options": list(options),
        "image": f"images/{id}.jpg",
        "answer": answer,
        "solution": None,
        "level": 1,
        "subject": "counting",
    } | fields


@pytest.fixture
def repository(tmp_path: Path, write_lines, encoded) -> Path:
    """As cloned: two JSON lines files and the pictures; of question 4 the picture is lost."""
    rows = [
        record("1", "60"),
        record("2", "A", ("A", "B", "C", "D", "E")),
        record("3", "B", ("red", "blue"), question="Which?"),
    ]
    write_lines(tmp_path / "data" / "test.jsonl", *rows, record("4", "7"))
    write_lines(tmp_path / "data" / "testmini.jsonl", rows[1])
    (tmp_path / "images").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(encoded(40, 20, "JPEG"))
    return tmp_path


def test_repository(repository: Path) -> None:
    rows, bad = load("mathvision", repository, split="test", on_benchmark="allow")
    assert not bad
    assert [row.id for row in rows] == ["mathvision-1", "mathvision-2", "mathvision-3", "mathvision-4"]
    assert (rows[0].question, rows[0].options) == ("How many bricks are missing in the wall?", ())
    assert image_size(rows[0].images[0]) == (40, 20)
    assert rows[2].prompt == "Which?\nA. red\nB. blue"
    assert right(rows[0], "60")
    assert right(rows[1], "(A)")
    assert right(rows[2], "blue")
    assert not right(rows[2], "A")


def test_training_leaves_testmini_out(repository: Path) -> None:
    """The benchmark's own rows are in `test` under the same ids; training on them would make its score worthless."""
    rows, _ = load("mathvision", repository)
    assert [(row.id, row.split) for row in rows] == [
        ("mathvision-1", "train"),
        ("mathvision-3", "train"),
        ("mathvision-4", "train"),
    ]
    for split in ("test", "testmini"):
        with pytest.raises(
            ValueError, match=f"split '{split}' of mathvision is what benchmarks evaluate on: use train"
        ):
            load("mathvision", repository, split=split)


def test_training_is_refused_where_testmini_is_not_known(repository: Path, write_lines) -> None:
    write_lines(repository / "data" / "testmini.jsonl", {"question": "Q?"})
    with pytest.raises(ValueError, match=r"testmini of .* has no ids"):
        load("mathvision", repository)
    (repository / "data" / "testmini.jsonl").unlink()
    with pytest.raises(ValueError, match=r"split 'testmini' of .*cannot be loaded"):
        load("mathvision", repository)


def test_missing_picture_is_found_by_the_check(repository: Path) -> None:
    good, bad = check_samples(load("mathvision", repository)[0], needs_response=False, progress=False)
    assert [row.id for row in good] == ["mathvision-1", "mathvision-3"]
    assert "images/4.jpg" in bad[0].reason


def test_tables_of_the_hub(tmp_path: Path, encoded) -> None:
    """Pictures stay encoded; the column `image` is a path into an archive that is not there."""
    picture = {"bytes": encoded(33, 44), "path": "4.jpg"}
    rows = [record(str(number), "6", decoded_image=picture) for number in (4, 5, 6)]
    table(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", rows)
    table(tmp_path / "set" / "data" / "testmini-00000-of-00001.parquet", rows[:1])
    found, bad = load("mathvision", tmp_path / "set")
    assert not bad
    assert [row.id for row in found] == ["mathvision-5", "mathvision-6"]
    assert image_size(found[0].images[0]) == (33, 44)


@pytest.mark.parametrize(
    ("text", "question"),
    [
        (
            "One piece looks like:\n<image1>\nWhat does the other look like?\n<image2>",
            "looks like:\nWhat does the other",
        ),
        ("How long is the room? <image1>", "How long is the room?"),
        ("Which is missing?\n<image1>\n<image2>", "Which is missing?"),
        ("The ant <image1> walks from home <image2>.\n<image6>", "The ant (image 1) walks from home (image 2)."),
        ("<image1>\nWhich side is opposite to <image3>?\n<image4>", "Which side is opposite to (image 3)?"),
    ],
)
def test_numbered_marks(repository: Path, write_lines, text: str, question: str) -> None:
    """All are places of the one picture: counted as pictures, every such row would be refused."""
    write_lines(repository / "data" / "test.jsonl", record("1", "6", ("<image5>", "B"), question=text))
    ((row,), bad) = load("mathvision", repository)
    assert question in row.question
    assert "<image" not in row.prompt
    assert not bad


def test_bad_rows_are_named(repository: Path, write_lines) -> None:
    write_lines(
        repository / "data" / "test.jsonl",
        record("1", "F", ("A", "B", "C", "D", "E")),
        record("3", ""),
        record("5", "6", image=None),
        record("6", "6", image="../private.jpg"),
        record("7", "6", question=None),
        record("8", "6"),
        record("8", "7"),
        '{"id": "9',
    )
    rows, bad = load("mathvision", repository)
    assert [row.id for row in rows] == ["mathvision-8"]
    for key, reason in {
        "mathvision-1": "'F' is none of the 5 options",
        "mathvision-3": "no reference answer",
        "mathvision-5": "no picture",
        "mathvision-6": "outside",
        "mathvision-7": "question is None",
        "mathvision-8": "occurs twice",
        "test.jsonl line 8": "not JSON",
    }.items():
        assert reason in bad[key]
