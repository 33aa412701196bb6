"""MMBench: the published TSV and hub tables, copies with moved options, circular scores worked by hand."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.image_files import image_size
from look_again.data.sample import SampleError
from look_again.evaluation.benchmarks.mmbench import MMBENCH, TABLE, load, rotated, score
from look_again.evaluation.files.tsv import read_tsv
from tests.evaluation.benchmarks.question_tables import cell, loaded, png, scored, write_table

COLUMNS = (
    *("index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "source", "l2-category"),
    *("comment", "split"),
)
OPTIONS = {"A": "red", "B": "blue", "C": "green", "D": "grey"}


def encoded(width: int = 8) -> str:
    return base64.b64encode(png(width)).decode()


def row(index: int | str = 7, **fields: Any) -> dict[str, Any]:
    return {
        "index": index,
        "question": "What colour?",
        "hint": None,
        **OPTIONS,
        "answer": "B",
        "category": "attribute_recognition",
        "image": encoded(),
        "source": "reasoning",
        "l2-category": "finegrained_perception (instance-level)",
        "comment": None,
        "split": "dev",
    } | fields


def copies(index: int = 7, **fields: Any) -> list[dict[str, Any]]:
    """A question and its three copies as published: moved options, the image by the question's index."""
    texts = list(OPTIONS.values())
    moved = [dict(zip("ABCD", texts[-copy:] + texts[:-copy], strict=True)) for copy in (1, 2, 3)]
    references = {"image": str(index)}
    made = [
        row(index + copy * 1_000_000, **fields, **options, answer=answer, **references)
        for copy, (options, answer) in enumerate(zip(moved, "CDA", strict=True), start=1)
    ]
    return [row(index, **fields), *made]


def write_tsv(path: Path, *rows: dict[str, Any], columns: tuple[str, ...] = COLUMNS) -> Path:
    """As pandas writes it: quotes where needed, nothing for a missing value."""

    def text(value: Any) -> str:
        written = "" if value is None else str(value)
        return f'"{written.replace(chr(34), chr(34) * 2)}"' if any(c in written for c in '\t\n\r"') else written

    lines = ["\t".join(columns), *("\t".join(text(one.get(column)) for column in columns) for one in rows)]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


# The table


def test_cells_of_a_tsv(tmp_path: Path) -> None:
    """A quoted line break taken for the end of the row: all cells behind it are moved by some."""
    rows = [{"a": "1", "b": 'two\n"lines"\tand a tab', "c": None}, {"a": "x" * 300_000, "b": "", "c": "end"}]
    path = write_tsv(tmp_path / "t.tsv", *rows, columns=("a", "b", "c"))
    assert list(read_tsv(path)) == [rows[0], rows[1] | {"b": None}]
    path.write_bytes(b'\xef\xbb\xbfa\tb\r\n1\t"x"y\r\n\r\n"q"\t5" disk\r\n')
    assert list(read_tsv(path)) == [{"a": "1", "b": "xy"}, {"a": "q", "b": '5" disk'}]


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        ("a\tb\n1\t2\t3\n4\t5\n", "t.tsv line 2", "3 cells in a table of 2 columns"),
        ("a\tb\n1\n4\t5\n", "t.tsv line 2", "1 cells in a table of 2 columns"),
        ('a\tb\n4\t5\n1\t"x\n', "t.tsv line 3", "never closed"),
        ('a\tb\n1\t"x\n' + "no\tend\n" * 999 + "4\t5\n", "t.tsv lines 2 to 1001", "these lines are lost"),
    ],
)
def test_bad_lines_of_a_tsv(tmp_path: Path, text: str, name: str, reason: str) -> None:
    """A broken line that ends the table, or takes all others with it."""
    (tmp_path / "t.tsv").write_text(text)
    found = list(read_tsv(tmp_path / "t.tsv"))
    (error,) = (one for one in found if isinstance(one, SampleError))
    assert error.row_id == name
    assert reason in error.reason
    assert {"a": "4", "b": "5"} in found


@pytest.mark.parametrize("content", [b"", b"a\t\tb\n1\t2\t3\n", b"\xff\xfe\n", b'"a\n'])
def test_no_tsv(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.tsv (has no header|is not UTF-8)"):
        list(read_tsv(tmp_path / "t.tsv"))


# Loading


def test_published_table(tmp_path: Path) -> None:
    """Copies made again though they are there, apart from their question, or without its image."""
    first, *rest = copies(7, hint="Look\nclosely.")
    table = write_tsv(tmp_path / TABLE, first, row(8, answer="A", image=encoded(20)), *rest, *copies(8)[1:])
    items, bad = loaded(load, tmp_path, "dev")
    assert not bad
    assert [item.id for item in items] == ["7", "1000007", "2000007", "3000007", "8", "1000008", "2000008", "3000008"]
    assert items[0].prompt == (
        "Look\nclosely.\nWhat colour?\nA. red\nB. blue\nC. green\nD. grey\n"
        "Which option is right? Give its letter as the final answer."
    )
    assert "\nA. grey\nB. red\nC. blue\nD. green\n" in items[1].prompt
    assert [item.reference for item in items[:4]] == ["B", "C", "D", "A"]
    assert [image_size(item.images[0])[0] for item in items] == [8] * 4 + [20] * 4
    assert items[2].facts == {
        "options": ["green", "grey", "red", "blue"],
        "question": "7",
        "copy": 2,
        "copies": 4,
        "table": TABLE,
        "category": "attribute_recognition",
        "l2_category": "finegrained_perception (instance-level)",
    }
    assert items[0].images[0] is items[3].images[0]  # one picture, however many copies
    assert len(loaded(load, table, "dev")[0]) == 8
    assert [item.id for item in loaded(load, table, "dev", limit=1)[0]] == ["7", "1000007", "2000007", "3000007"]


def test_rotations_are_made_where_there_are_none(tmp_path: Path) -> None:
    """Each letter must be the right one once, and texts must keep their order."""
    write_tsv(tmp_path / TABLE, row(), row(9, C=None, D=None, answer="A"))
    items, bad = loaded(load, tmp_path, "dev")
    assert not bad
    assert [item.id for item in items] == ["7", "1000007", "2000007", "3000007", "9", "1000009"]
    assert [item.reference for item in items] == ["B", "C", "D", "A", "A", "B"]
    assert [item.facts["options"] for item in items[:2]] == [
        ["red", "blue", "green", "grey"],
        ["grey", "red", "blue", "green"],
    ]
    assert [item.facts["options"] for item in items[4:]] == [["red", "blue"], ["blue", "red"]]
    published = copies()
    for copy, made in rotated(row(), "7").items():
        assert {key: made[key] for key in "ABCD"} == {key: published[copy][key] for key in "ABCD"}
        assert made["answer"] == published[copy]["answer"]


@pytest.mark.parametrize("name", ["dev-00000-of-00001.parquet", "data/dev-0.parquet", "en/dev-00000-of-00001.parquet"])
def test_tables_of_the_hub(tmp_path: Path, name: str) -> None:
    """Indices as text, "nan" for a missing option, the category under its other name, a picture per copy."""
    rows = []
    for one in copies():
        one["L2-category"] = one.pop("l2-category")
        rows.append(one | {"index": str(one["index"]), "image": cell(), "hint": "nan"})
    two = [row("12", C="nan", D="nan"), row("1000012", A="blue", B="red", C="nan", D="nan", answer="A")]
    for one in two:
        one["L2-category"] = one.pop("l2-category")
        rows.append(one | {"image": cell(), "hint": "nan"})
    write_table(tmp_path / name, *rows)
    items, bad = loaded(load, tmp_path, "dev")
    assert not bad
    assert [item.id for item in items] == ["7", "1000007", "2000007", "3000007", "12", "1000012"]
    assert items[0].prompt.startswith("What colour?\nA. red")
    assert items[4].facts["options"] == ["red", "blue"]
    assert items[0].facts["l2_category"].startswith("finegrained")


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([one | {"image": cell()} for one in copies()])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    items, _ = loaded(load, MMBENCH.hub, "dev")
    assert (len(items), items[0].facts["table"]) == (4, "lmms-lab/MMBench")
    assert "V1.0" in scored(score, items, *"BCDA").notes["version"]  # no V1.1 result by the name of the benchmark alone
    loaded(load, "some/copy", "dev")
    assert asked == [("lmms-lab/MMBench", "en", "dev"), ("some/copy", None, "dev")]


def test_unknown_layouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"looked for dev\*\.parquet, .*en/dev\*\.parquet.*and {TABLE}"):
        loaded(load, tmp_path, "dev")
    with pytest.raises(ValueError, match=r"split is 'test': MMBench has dev .*withheld"):
        loaded(load, tmp_path, "test")
    table = write_tsv(tmp_path / TABLE, row(), columns=("index", "question", "A"))
    with pytest.raises(ValueError, match=r"looked for the columns index, .*; no B, answer, image"):
        loaded(load, table, "dev")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": None}, "image is None"),
        ({"image": "9"}, "neither base64 nor the index of a row"),
        ({"image": "!" * 100}, "not base64"),
        ({"image": base64.b64encode(b"x" * 100).decode()}, "is not an image"),
        ({"answer": "E"}, "one of the letters A to D"),
        ({"answer": None}, "answer is None"),
        ({"B": None}, "option B is missing between others"),
        ({"B": None, "C": None, "D": None}, "1 options: 2 to 10"),
        ({"question": None}, "question is None"),
    ],
)
def test_bad_question_is_listed_with_its_copies(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    """A question scored on the copies that are left, which is easier; or a gap in the list of what is missing."""
    first, *rest = copies()
    write_tsv(tmp_path / TABLE, first | fields, *rest, *copies(8))
    items, bad = loaded(load, tmp_path, "dev")
    assert [item.facts["question"] for item in items] == ["8"] * 4
    assert list(bad) == ["7", "1000007", "2000007", "3000007"]
    assert reason in bad["7"]
    assert "another copy is bad" in bad["1000007"] or reason in bad["1000007"]
    write_tsv(tmp_path / TABLE, first | fields, row(8))
    items, bad = loaded(load, tmp_path, "dev")
    assert [item.facts["question"] for item in items] == ["8"] * 4
    assert list(bad) == ["7"]
    assert reason in bad["7"]


def test_missing_and_repeated_copies_are_listed(tmp_path: Path) -> None:
    first, second, third, fourth = copies()
    write_tsv(tmp_path / TABLE, first, third, fourth, row("x"), *copies(8), row(8), *copies(9)[1:])
    items, bad = loaded(load, tmp_path, "dev")
    assert [item.id for item in items] == ["8", "1000008", "2000008", "3000008"]
    assert "a whole number is needed" in bad["row 3"]
    assert "occurs twice" in bad["8"]
    for name in ("7", "2000007", "3000007"):
        assert "of the copies of 7, only 7, 2000007, 3000007 are there" in bad[name]
    assert set(bad) == {"row 3", "8", "7", "2000007", "3000007", "1000009", "2000009", "3000009"}
    assert second["index"] == 1_000_007


# Scores


def test_circular_scores_by_hand(tmp_path: Path) -> None:
    """The mean over copies taken for the circular score: a model that always says "B" would get a quarter."""
    write_tsv(tmp_path / TABLE, *copies(7), *copies(8, category="ocr"), *copies(9, category="ocr"), *copies(10))
    items, _ = loaded(load, tmp_path, "dev")
    right = ["B", "C", "D", "A"]
    replies = [
        *right,  # 7: right in all
        *["B", "C", "D", "B"],  # 8: wrong in one copy
        *["blue", "It is blue", "(D)", "A"],  # 9: right in words
        *["B", "C", "D", "either A or B"],  # 10: one reply without an answer
    ]
    scores = scored(score, items, *replies)
    assert scores.metrics == {
        "circular_accuracy": 0.5,
        "circular_accuracy_2026_06": 0.5,
        "strict_circular_accuracy": 0.5,
        "first_accuracy": 1.0,
        "questions": 4,
        "incomplete": 0,
        "items": 16,
        "unparsed": 1,
    }
    assert [one.facts["circular"] for one in scores.items] == [
        *(1, None, None, None),
        *(0, None, None, None),
        *(1, None, None, None),
        *(0, None, None, None),
    ]
    assert [one.strict for one in scores.items[4:8]] == [1.0, 1.0, 1.0, 0.0]
    assert scores.subsets["category/ocr"]["circular_accuracy"] == 0.5
    assert scores.subsets["l2_category/finegrained_perception (instance-level)"]["questions"] == 4
    assert (scores.notes["table"], scores.notes["version"]) == (TABLE, "V1.1")
    constant = scored(score, items, *["B"] * 16)
    assert constant.metrics["circular_accuracy"] == 0.0
    assert sum(one.official or 0 for one in constant.items) == 4


def test_official_and_strict_differ(tmp_path: Path) -> None:
    """VLMEvalKit takes a denied letter; the strict score reads nothing there."""
    write_tsv(tmp_path / TABLE, *copies(7))
    items, _ = loaded(load, tmp_path, "dev")
    scores = scored(score, items, "not B", "C", "D", "A")
    assert scores.metrics["circular_accuracy"] == 1.0
    assert scores.metrics["strict_circular_accuracy"] == 0.0
    assert scores.metrics["unparsed"] == 1


def test_incomplete_questions_have_no_score(tmp_path: Path) -> None:
    """A part of a run in which questions count as right because their harder copies were not asked."""
    write_tsv(tmp_path / TABLE, *copies(7), *copies(8))
    items, _ = loaded(load, tmp_path, "dev")
    scores = scored(score, items[:6], "B", "C", "D", "A", "B", "C")
    assert scores.metrics["circular_accuracy"] == 1.0
    assert (scores.metrics["questions"], scores.metrics["incomplete"]) == (2, 1)
    assert scores.items[4].facts["circular"] is None
    assert score([], [], None).metrics["circular_accuracy"] is None
