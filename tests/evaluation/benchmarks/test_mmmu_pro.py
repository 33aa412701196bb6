"""MMMU-Pro: both parts in the published layout, the rule behind "Answer:", scores worked by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.image_files import image_size
from look_again.evaluation.benchmarks.mmmu_pro import (
    MMMU_PRO,
    MMMU_PRO_VISION,
    STANDARD,
    load_standard,
    load_vision,
    mmmu_pro_letter,
    score,
)
from tests.evaluation.benchmarks.question_tables import cell, loaded, png, scored, write_table

TEN = [f"item {number}" for number in range(10)]


def standard(name: str = "test_History_1", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "question": "Which of <image 1> and <image 2>?",
        "options": str(TEN),
        "explanation": "?",
        "image_1": cell(png(10)),
        "image_2": cell(png(20)),
        **{f"image_{number}": None for number in range(3, 8)},
        "img_type": "['Photographs']",
        "answer": "J",
        "topic_difficulty": "Medium",
        "subject": "History",
    } | fields


def vision(name: str = "test_Public_Health_7", **fields: Any) -> dict[str, Any]:
    return {"id": name, "image": cell(png(30)), "options": str(TEN), "answer": "C", "subject": "Public_Health"} | fields


def published(folder: Path) -> Path:
    write_table(folder / "standard (10 options)" / "test-00000-of-00002.parquet", standard())
    write_table(folder / "standard (10 options)" / "test-00001-of-00002.parquet", standard("test_History_2"))
    write_table(folder / "standard (4 options)" / "test-00000-of-00001.parquet", standard("test_History_3"))
    write_table(folder / "vision" / "test-00000-of-00001.parquet", vision())
    return folder


def test_standard_part(tmp_path: Path) -> None:
    """The four-option part mixed in, or the tenth letter missing."""
    items, bad = loaded(load_standard, published(tmp_path), "test")
    assert not bad
    assert [item.id for item in items] == ["test_History_1", "test_History_2"]
    assert items[0].prompt.startswith("Which of [image 1] and [image 2]?\nA. item 0\n")
    assert "\nJ. item 9\nWhich option is right?" in items[0].prompt
    assert [image_size(image)[0] for image in items[0].images] == [10, 20]
    assert items[0].reference == "J"
    assert items[0].facts["discipline"] == "Humanities and Social Science"


def test_vision_part(tmp_path: Path) -> None:
    """The question given away in the prompt, or the options lost to the scorer."""
    (item,), bad = loaded(load_vision, published(tmp_path), "test")
    assert not bad
    assert item.prompt == (
        "The picture shows a question with its options.\n"
        "Which of its options is right? Give the letter as the final answer."
    )
    assert [image_size(image)[0] for image in item.images] == [30]
    assert (item.reference, item.facts["options"], item.facts["subject"]) == ("C", TEN, "Public_Health")


def test_part_folder_and_file(tmp_path: Path) -> None:
    """A path to the part itself, as one downloads it."""
    published(tmp_path)
    assert len(loaded(load_vision, tmp_path / "vision", "test")[0]) == 1
    assert len(loaded(load_vision, tmp_path / "vision" / "test-00000-of-00001.parquet", "test")[0]) == 1
    with pytest.raises(ValueError, match=r"looked for the columns id, question, options, .*; no question, image_1"):
        loaded(load_standard, tmp_path / "vision", "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"looked for standard \(10 options\)/test\*\.parquet, test\*\.parquet, data"):
        loaded(load_standard, tmp_path / "empty", "test")


def test_hub_configurations(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(path: str, name: str, *, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([standard() if name == STANDARD else vision()])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(loaded(load_standard, MMMU_PRO.hub, "test")[0]) == 1
    assert len(loaded(load_vision, MMMU_PRO_VISION.hub, "test")[0]) == 1
    assert asked == [("MMMU/MMMU_Pro", "standard (10 options)", "test"), ("MMMU/MMMU_Pro", "vision", "test")]


def test_bad_rows_are_listed(tmp_path: Path) -> None:
    """A missing screenshot asked about as if it were there."""
    bad_rows = [
        vision("test_Art_1", image=None),
        vision("test_Art_2", image=cell(b"x")),
        vision("test_Art_3", answer="K"),
    ]
    write_table(tmp_path / "vision" / "test.parquet", vision(), *bad_rows)
    items, bad = loaded(load_vision, tmp_path, "test")
    assert len(items) == 1
    assert set(bad) == {"test_Art_1", "test_Art_2", "test_Art_3"}
    assert "image is None" in bad["test_Art_1"]
    assert "is not an image" in bad["test_Art_2"]
    assert "one of the letters A to J" in bad["test_Art_3"]
    write_table(tmp_path / "more.parquet", standard(image_2=None))
    _, bad = loaded(load_standard, tmp_path / "more.parquet", "test")
    assert "image_2 is missing" in bad["test_History_1"]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("It has to be (A).\nAnswer: C", "C"),
        ("Answer: C. No, Answer: D", "D"),  # the last one
        ("Answer: **G**", "G"),
        ("Answer: (J) item 9", "J"),
        ("Answer: C or D", "D"),  # two behind it: MMMU's rule for the whole, the last letter
        ("Answer: Because", "B"),  # any capital A to J, also in a word
        ("answer: C", "C"),  # found by MMMU's rule
        ("Answer: item nine", None),
        ("We take item 4 as the answer", "E"),
        ("I take item 4 as the answer", "I"),  # the pronoun is the ninth option
        ("no idea", None),
    ],
)
def test_letter_behind_answer(reply: str, letter: str | None) -> None:
    """MMMU's rule applied where MMMU-Pro reads the last line."""
    assert mmmu_pro_letter(reply, TEN) == letter


def test_scores_by_hand(tmp_path: Path) -> None:
    rows = [vision(f"test_Math_{number}") for number in range(3)]
    write_table(tmp_path / "vision" / "test.parquet", *rows)
    items, _ = loaded(load_vision, tmp_path, "test")
    scores = scored(score, items, "Answer: C", "Answer: Crab", "no idea")
    assert [one.strict for one in scores.items] == [1.0, 0.0, 0.0]
    assert [one.official for one in scores.items[:2]] == [1.0, 1.0]
    assert (scores.metrics["unparsed"], scores.metrics["guessed"], scores.metrics["items"]) == (2, 1, 3)
    assert scores.subsets["subject/Math"]["items"] == 3
    assert scores.subsets["discipline/Science"]["strict_accuracy"] == pytest.approx(1 / 3)
