"""MME: accuracy and accuracy+ by hand, its rule, its sums, and its folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.sample import BadSample
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply
from look_again.evaluation.benchmarks.mme import MME, PART_OF, PARTS, official_reading, score


@pytest.mark.parametrize(
    ("reply", "official"),
    [
        ("Yes", "yes"),
        ("no", "no"),
        ("Yes, it is.", "yes"),
        (" NO.", "no"),
        ("'Yes'", "yes"),
        ("Not sure", "no"),  # a quirk of the first four characters
        ("None", "no"),
        ("I know", None),
        ("It is.", None),
        ("**Yes**", None),
        ("The answer is yes", None),
        ("", None),
        ("n", None),
    ],
)
def test_official_rule(reply: str, official: str | None) -> None:
    """Kept with its quirks: "yes", else "no", within the first four characters."""
    assert official_reading(reply) == official


def asked(*rows: tuple[str, str, str, str]) -> tuple[list[BenchmarkItem], list[ModelReply]]:
    """Rows of subtask, image, reference, reply."""
    items = [
        BenchmarkItem(
            id=str(i), prompt="?", reference=reference, facts={"subtask": subtask, "image_id": f"{subtask}/{picture}"}
        )
        for i, (subtask, picture, reference, _) in enumerate(rows)
    ]
    return items, [ModelReply(reply) for *_, reply in rows]


def test_accuracy_plus_by_hand() -> None:
    """Three images: both right, one right, none right. Accuracy 3/6; accuracy+ 1/3, not 3/6 and not 2/3."""
    found = score(
        *asked(
            ("count", "1", "yes", "Yes"),
            ("count", "1", "no", "No"),
            ("count", "2", "yes", "Yes"),
            ("count", "2", "no", "Yes"),
            ("count", "3", "yes", "No"),
            ("count", "3", "no", "I cannot tell"),
        )
    ).subsets["subtask/count"]
    assert found["accuracy"] == 3 / 6
    assert found["accuracy_plus"] == 1 / 3
    assert found["score"] == pytest.approx(50 + 100 / 3)
    assert (found["unparsed"], found["official_unparsed"], found["incomplete_pairs"]) == (1, 1, 0)


def test_images_are_paired_by_name_not_by_place() -> None:
    """Pairing neighbours would mix two images once one question is missing or rows are shuffled."""
    found = score(
        *asked(
            ("count", "1", "yes", "Yes"),
            ("count", "2", "yes", "Yes"),
            ("count", "2", "no", "Yes"),
            ("count", "1", "no", "No"),
        )
    ).subsets["subtask/count"]
    assert found["accuracy_plus"] == 1 / 2


def test_the_same_image_name_in_two_subtasks_is_two_images() -> None:
    found = score(*asked(("count", "1", "yes", "Yes"), ("color", "1", "no", "No")))
    assert found.metrics["incomplete_pairs"] == 2


def test_sums() -> None:
    """Perception and cognition are sums over subtasks of at most 200 each; a mean would be another scale."""
    found = score(
        *asked(
            ("count", "1", "yes", "Yes"),
            ("count", "1", "no", "No"),  # 100 + 100
            ("OCR", "1", "yes", "Yes"),
            ("OCR", "1", "no", "Yes"),  # 50 + 0
            ("code_reasoning", "1", "yes", "No"),
            ("code_reasoning", "1", "no", "No"),  # 50 + 0
        )
    )
    assert (found.metrics["perception"], found.metrics["cognition"], found.metrics["total"]) == (250, 50, 300)
    assert found.metrics["subtasks"] == 3
    assert "existence" in found.notes["not_asked"]
    assert "count" not in found.notes["not_asked"].split(", ")


def test_all_fourteen_right_is_2800() -> None:
    rows = [(subtask, "1", answer, answer) for subtask in PART_OF for answer in ("yes", "no")]
    found = score(*asked(*rows))
    assert (found.metrics["perception"], found.metrics["cognition"], found.metrics["total"]) == (2000, 800, 2800)
    assert found.notes["not_asked"] == "no subtask"
    assert {part: len(subtasks) for part, subtasks in PARTS.items()} == {"perception": 10, "cognition": 4}


def test_strict_reads_what_the_rule_misses_and_guesses_nothing() -> None:
    found = score(
        *asked(
            ("count", "1", "yes", "The answer is yes."),
            ("count", "1", "no", "Not sure"),
        )
    )
    metrics = found.subsets["subtask/count"]
    assert (metrics["accuracy"], metrics["strict_accuracy"]) == (1 / 2, 1 / 2)
    assert [(one.official, one.strict) for one in found.items] == [(0, 1), (1, 0)]
    assert (metrics["unparsed"], metrics["official_unparsed"]) == (1, 1)
    assert (metrics["strict_accuracy_plus"], metrics["strict_score"]) == (0, 50)


def test_half_a_pair_has_no_accuracy_plus() -> None:
    """A cut in the middle of an image must not count as an image right or wrong."""
    found = score(*asked(("count", "1", "yes", "Yes"), ("count", "1", "no", "No"), ("count", "2", "yes", "No")))
    assert found.subsets["subtask/count"]["accuracy_plus"] == 1
    assert found.subsets["subtask/count"]["accuracy"] == 2 / 3
    assert found.metrics["incomplete_pairs"] == 1
    alone = score(*asked(("count", "1", "yes", "Yes"))).metrics
    assert (alone["perception"], alone["cognition"], alone["total"]) == (None, None, None)
    assert score([], []).metrics["total"] is None


# Folders

Write = Callable[..., None]


@pytest.fixture
def write(tmp_path: Path, encoded) -> Write:
    """Write a question file and its image, side by side or, with `apart`, in the release's two folders."""

    def write(subtask: str, stem: str, text: str, *, apart: bool = False, suffix: str | None = ".png") -> None:
        folder = tmp_path / "MME_Benchmark_release_version" / "MME_Benchmark" / subtask
        questions = folder / "questions_answers_YN" if apart else folder
        pictures = folder / "images" if apart else folder
        for made in (questions, pictures):
            made.mkdir(parents=True, exist_ok=True)
        (questions / f"{stem}.txt").write_text(text, encoding="utf-8")
        if suffix:
            (pictures / f"{stem}{suffix}").write_bytes(encoded(format="PNG" if suffix == ".png" else "JPEG"))

    return write


QUESTIONS = "Is this a cat? Please answer yes or no.\tYes\nIs this a dog? Please answer yes or no.\tNo\n\n"


def load(path: Path | str, split: str = "all", **fields: Any) -> tuple[list[BenchmarkItem], list[BadSample]]:
    found = list(MME.load(DataLocation(path=str(path), split=split, **fields)))
    return [one for one in found if isinstance(one, BenchmarkItem)], [
        one for one in found if isinstance(one, BadSample)
    ]


def test_both_forms_of_a_subtask(tmp_path: Path, write: Write) -> None:
    write("code_reasoning", "0020", QUESTIONS)
    write("artwork", "14777", QUESTIONS, apart=True, suffix=".jpg")
    items, bad = load(tmp_path)
    assert [one.id for one in items] == [
        "artwork/14777.jpg#1",
        "artwork/14777.jpg#2",
        "code_reasoning/0020.png#1",
        "code_reasoning/0020.png#2",
    ]
    assert [one.reference for one in items] == ["yes", "no"] * 2
    assert items[0].prompt == "Is this a cat? Please answer yes or no."
    assert items[2].facts == {"subtask": "code_reasoning", "part": "cognition", "image_id": "code_reasoning/0020.png"}
    release = tmp_path / "MME_Benchmark_release_version" / "MME_Benchmark"
    assert items[0].images == (release / "artwork" / "images" / "14777.jpg",)
    assert len(bad) == 12  # the subtasks that are not there
    assert "no questions of existence: looked for" in bad[0].reason


@pytest.mark.parametrize("below", ["MME_Benchmark_release_version", "MME_Benchmark_release_version/MME_Benchmark"])
def test_the_folder_may_be_given_at_any_level(tmp_path: Path, write: Write, below: str) -> None:
    write("count", "1", QUESTIONS)
    assert len(load(tmp_path / below, "count")[0]) == 2


def test_splits_are_parts_and_subtasks(tmp_path: Path, write: Write) -> None:
    write("count", "1", QUESTIONS)
    write("code_reasoning", "2", QUESTIONS)
    assert {one.facts["subtask"] for one in load(tmp_path, "cognition")[0]} == {"code_reasoning"}
    items, bad = load(tmp_path, "count")
    assert {one.facts["subtask"] for one in items} == {"count"}
    assert not bad


def test_bad_question_files_are_listed(tmp_path: Path, write: Write) -> None:
    write("count", "1", QUESTIONS)
    write("count", "2", QUESTIONS, suffix=None)
    write("count", "3", "Is this a cat?\tYes\n")
    write("count", "4", "Is this a cat? Yes\nIs this a dog? No\n")
    write("count", "5", "Is this a cat?\tYes\nIs this a dog?\tPerhaps\n")
    items, bad = load(tmp_path, "count")
    assert [one.id for one in items] == ["count/1.png#1", "count/1.png#2", "count/5.png#1"]
    reasons = {row.id: row.reason for row in bad}
    assert "is missing: 2.jpg or .jpeg or .png is needed" in reasons["count/2"]
    assert "has 1 lines: two of question, tab, Yes or No are needed" in reasons["count/3"]
    assert "two of question, tab" in reasons["count/4"]
    assert "answer is 'Perhaps'" in reasons["count/5.png#2"]


def test_images_elsewhere(tmp_path: Path, write: Write) -> None:
    write("count", "1", QUESTIONS)
    release = tmp_path / "MME_Benchmark_release_version" / "MME_Benchmark"
    (tmp_path / "pictures" / "count").mkdir(parents=True)
    (release / "count" / "1.png").rename(tmp_path / "pictures" / "count" / "1.png")
    assert len(load(release, "count", images=tmp_path / "pictures")[0]) == 2
    assert len(load(release, "count")[1]) == 1


def test_damaged_image(tmp_path: Path, write: Write) -> None:
    write("count", "1", QUESTIONS)
    (tmp_path / "MME_Benchmark_release_version" / "MME_Benchmark" / "count" / "1.png").write_bytes(b"no picture")
    items, bad = load(tmp_path, "count")
    assert not items
    assert [row.id for row in bad] == ["count/1.png#1", "count/1.png#2"]


def test_unknown_layouts_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"test\*.parquet.*nor is there a folder per subtask \(existence, count.*release"
    ):
        load(tmp_path)
    with pytest.raises(ValueError, match="split is 'test': MME has all, perception, cognition, existence"):
        load(tmp_path, "test")


FEATURES = datasets.Features(
    question_id=datasets.Value("string"),
    image=datasets.Image(),
    question=datasets.Value("string"),
    answer=datasets.Value("string"),
    category=datasets.Value("string"),
)


def table(encoded) -> datasets.Dataset:
    picture = {"bytes": encoded(), "path": None}
    rows = [
        ("code_reasoning/0020.png", picture, "Is it 5? Please answer yes or no.", "Yes", "code_reasoning"),
        ("code_reasoning/0020.png", picture, "Is it 6? Please answer yes or no.", "No", "code_reasoning"),
        ("count/1.png", None, "Are there two?", "Yes", "count"),
        ("odd/1.png", picture, "Is it?", "Yes", "odd"),
    ]
    return datasets.Dataset.from_list([dict(zip(FEATURES, row, strict=True)) for row in rows], features=FEATURES)


def test_table_in_a_folder(tmp_path: Path, encoded) -> None:
    table(encoded).to_parquet(tmp_path / "data" / "test-00000-of-00004.parquet")
    items, bad = load(tmp_path)
    assert [one.id for one in items] == ["code_reasoning/0020.png#1", "code_reasoning/0020.png#2"]
    assert items[0].facts["image_id"] == items[1].facts["image_id"]
    assert [row.id for row in bad] == ["count/1.png#1", "odd/1.png#1"]
    assert [row.id for row in load(tmp_path, "count")[1]] == ["count/1.png#1", "odd/1.png#1"]


def test_table_of_the_hub(monkeypatch, encoded) -> None:
    asked_for = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: asked_for.append((args, options)) or table(encoded)
    )
    assert len(load(MME.hub, limit=1)[0]) == 1
    assert asked_for == [(("lmms-lab/MME", None), {"split": "test"})]
