"""MMStar: rows in the published layout, the rule of one character, both averages worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.evaluation.benchmarks.mmstar import MMSTAR, load, mmstar_letter, options_within, score
from tests.evaluation.benchmarks.question_tables import cell, loaded, scored, write_table

QUESTION = "Which one is it?\nOptions: A: The suitcase is on the book., B: A cat, asleep, C: None, D: 12"
TEXTS = ("The suitcase is on the book.", "A cat, asleep", "None", "12")


def row(index: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "index": index,
        "question": QUESTION,
        "image": cell(),
        "answer": "A",
        "category": "coarse perception",
        "l2_category": "image style & quality",
        "meta_info": {"source": "MMBench", "split": "val", "image_path": "images/0.jpg"},
    } | fields


@pytest.mark.parametrize("name", ["mmstar.parquet", "val-00000-of-00001.parquet", "data/val.parquet"])
def test_layouts(tmp_path: Path, name: str) -> None:
    """The published file has no split in its name."""
    table = write_table(tmp_path / name, row(), row(1))
    items, bad = loaded(load, tmp_path, "val")
    assert not bad
    assert [item.id for item in items] == ["0", "1"]
    assert items[0].prompt == f"{QUESTION}\nWhich option is right? Give its letter as the final answer."
    assert items[0].reference == "A"
    assert items[0].facts == {
        "options": list(TEXTS),
        "category": "coarse perception",
        "l2_category": "image style & quality",
    }
    assert len(loaded(load, table, "val", limit=1)[0]) == 1


def test_hub_name(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str | None, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([row()])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(loaded(load, MMSTAR.hub, "val")[0]) == 1
    assert asked == [("Lin-Chen/MMStar", None, "val")]


def test_unknown_layouts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"looked for mmstar\.parquet, val\*\.parquet, data/val\*\.parquet"):
        loaded(load, tmp_path, "val")
    with pytest.raises(ValueError, match="split is 'test': MMStar has val"):
        loaded(load, tmp_path, "test")
    write_table(tmp_path / "mmstar.parquet", {"index": 0, "question": "Q?"})
    with pytest.raises(ValueError, match="no image, answer, category, l2_category"):
        loaded(load, tmp_path, "val")


def test_bad_rows_are_listed(tmp_path: Path) -> None:
    """A missing image asked about as if it were there, or the rows after a bad one lost."""
    rows = [row(0, image=None), row(1, answer="E"), row(2, question=None), row(3, image=cell(b"")), row(4)]
    write_table(tmp_path / "mmstar.parquet", *rows)
    items, bad = loaded(load, tmp_path, "val")
    assert [item.id for item in items] == ["4"]
    assert list(bad) == ["0", "1", "2", "3"]
    assert "image is None" in bad["0"]
    assert "one of the letters A to D" in bad["1"]
    assert "question is None" in bad["2"]
    assert "picture of 0 bytes" in bad["3"]


@pytest.mark.parametrize(
    ("question", "options"),
    [
        (QUESTION, TEXTS),
        ("Q?\nOptions:\nA. red\nB. blue\n", ("red", "blue")),
        ("Q? Options: (A) red (B) blue", ("red", "blue")),
        ("Options: A: see Options: A: x, B: y", ("x", "y")),
        ("Q? Options: A: A. Smith, B: B. Jones", ("A. Smith", "B. Jones")),
        ("Q? Options: A: red, C: blue", ()),
        ("Q? Options: A: , B: blue", ()),
        ("Q? A: red, B: blue", ()),
        ("", ()),
    ],
)
def test_options_within(question: str, options: tuple[str, ...]) -> None:
    """An option's text cut in a wrong place: a reply that quotes another one would be right."""
    assert options_within(question) == options


def test_question_without_readable_options(tmp_path: Path) -> None:
    """Replies in letters scored wrong, or refused, because texts could not be read."""
    write_table(tmp_path / "mmstar.parquet", row(question="Which picture?", answer="D"))
    (item,), _ = loaded(load, tmp_path, "val")
    assert [one.strict for one in scored(score, [item, item, item], "D", "(d)", "E").items] == [1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("A", "A"),
        ("b.", "B"),
        ("(C) 12", "C"),
        ("option D", "D"),
        ("Option (B)", None),
        ("The answer is B", "B"),
        ("The answer is (B)", None),
        ("\n B", "B"),
        ("A cat", "A"),
        ("because of C", "B"),
        ("It is A", None),
        ("E", None),
        ("option ", None),
        ("", None),
    ],
)
def test_official_character(reply: str, letter: str | None) -> None:
    """The official rule read too kindly, or an error at a reply that ends too early."""
    assert mmstar_letter(reply, TEXTS) == letter


def test_scores_by_hand(tmp_path: Path) -> None:
    """The mean over items taken for the mean over subcategories; the official character in the strict score."""
    groups = [("math", "geometry"), ("math", "geometry"), ("math", "geometry"), ("logical reasoning", "code")]
    rows = [row(at, category=name, l2_category=l2) for at, (name, l2) in enumerate(groups)]
    write_table(tmp_path / "mmstar.parquet", *rows)
    items, _ = loaded(load, tmp_path, "val")
    scores = scored(score, items, "A", "A cat, asleep", "It has to be A", "no idea")
    assert [one.official for one in scores.items] == [1.0, 1.0, 0.0, 0.0]
    assert [one.strict for one in scores.items] == [1.0, 0.0, 1.0, 0.0]
    assert [one.extracted for one in scores.items] == ["A", "B", "A", None]
    assert scores.metrics == {
        "accuracy": 0.5,
        "strict_accuracy": 0.5,
        "items": 4,
        "unparsed": 1,
        "l2_average": pytest.approx((2 / 3 + 0) / 2),
    }
    assert scores.subsets["category/math"]["accuracy"] == pytest.approx(2 / 3)
    assert scores.subsets["l2_category/code"] == {"accuracy": 0.0, "strict_accuracy": 0.0, "items": 1, "unparsed": 1}
    assert score([], [], None).metrics["l2_average"] is None
