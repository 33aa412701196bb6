"""POPE: its rule on twenty replies, its shares by hand, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.sample import BadSample
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply
from look_again.evaluation.benchmarks.pope import POPE, confusion, official_reading, score

REPLIES = [  # reply, officially, strictly
    ("Yes", "yes", "yes"),
    ("No", "no", "no"),
    ("no.", "no", "no"),
    ("Yes, there is a dog in the image.", "yes", "yes"),
    ("No, there is no dog in the image.", "no", "no"),
    ("There is no dog in the image.", "no", None),
    ("There is not a dog.", "no", None),
    ("There isn't a dog.", "yes", None),  # the rule knows no contraction
    ("NO", "yes", "no"),  # nor capitals
    ("No\nThe image shows a cat.", "yes", "no"),  # nor line breaks
    ("The answer is no", "no", "no"),
    ("The answer is yes. There is no doubt.", "yes", "yes"),
    ("Yes. No other animal is there.", "yes", "yes"),  # only the first sentence counts
    ("**No**", "yes", "no"),
    ("", "yes", None),
    ("I cannot tell.", "yes", None),
    ("I do not know.", "no", None),
    ("Yes or no", "no", None),
    ("Nothing like that", "yes", None),
    ("A dog, not a cat, is there, yes", "no", None),
]


@pytest.mark.parametrize(("reply", "official", "strict"), REPLIES, ids=[reply or "empty" for reply, _, _ in REPLIES])
def test_how_replies_are_read(reply: str, official: str, strict: str | None) -> None:
    """The official rule is kept with its quirks, or scores would not compare; the strict one guesses nothing."""
    item = BenchmarkItem(id="a", prompt="?", reference="yes", facts={"category": "random"})
    (one,) = score([item], [ModelReply(reply)]).items
    assert official_reading(reply) == one.facts["official_answer"] == official
    assert one.extracted == strict
    assert (one.official, one.strict) == (float(official == "yes"), float(strict == "yes"))
    assert one.unparsed == (strict is None)


def test_the_conclusion_is_what_is_read() -> None:
    """Reasoning is full of "no" and "not"; read as a whole it would make nearly every answer a no."""
    item = BenchmarkItem(id="a", prompt="?", reference="yes", facts={"category": "random"})
    found = score([item], [ModelReply("<REASONING>It is not far.</REASONING><CONCLUSION>Yes</CONCLUSION>", "Yes")])
    assert found.metrics["accuracy"] == found.metrics["strict_accuracy"] == 1


def test_shares_by_hand() -> None:
    """3 right yes, 1 wrong yes, 2 right no, 2 wrong no."""
    answers = [("yes", "yes")] * 3 + [("no", "yes")] + [("no", "no")] * 2 + [("yes", "no")] * 2
    assert confusion(answers) == {
        "accuracy": 5 / 8,
        "precision": 3 / 4,
        "recall": 3 / 5,
        "f1": 6 / 9,
        "yes_ratio": 4 / 8,
    }


@pytest.mark.parametrize(
    ("answers", "undefined", "f1"),
    [
        ([], ["accuracy", "precision", "recall", "f1", "yes_ratio"], None),
        ([("no", "no")], ["precision", "recall", "f1"], None),
        ([("yes", "no")], ["precision"], 0),
        ([("no", "yes")], ["recall"], 0),
    ],
)
def test_nothing_is_divided_by_zero(answers: list, undefined: list[str], f1: float | None) -> None:
    """The official script fails on a model that never says yes."""
    found = confusion(answers)
    assert [name for name, value in found.items() if value is None] == undefined
    assert found["f1"] == f1


def questions(**kinds: list[str]) -> tuple[list[BenchmarkItem], list[ModelReply]]:
    """Per kind, texts such as "yes:No" of reference and reply."""
    pairs = [(kind, *text.split(":")) for kind, texts in kinds.items() for text in texts]
    items = [
        BenchmarkItem(id=f"{kind}-{i}", prompt="?", reference=reference, facts={"category": kind})
        for i, (kind, reference, _) in enumerate(pairs)
    ]
    return items, [ModelReply(reply) for _, _, reply in pairs]


def test_f1_is_the_mean_of_the_splits() -> None:
    """Pooling the answers of three splits gives another F1 than the paper's mean."""
    items, replies = questions(
        random=["yes:Yes", "yes:Yes", "no:No", "no:No"],  # F1 1
        popular=["yes:Yes", "no:Yes"],  # precision 1/2, recall 1: F1 2/3
        adversarial=["yes:No", "no:Yes"],  # F1 0
    )
    found = score(items, replies)
    assert found.metrics["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert found.metrics["accuracy"] == pytest.approx((1 + 1 / 2 + 0) / 3)
    assert found.metrics["yes_ratio"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert found.metrics["items"] == 8
    assert list(found.subsets) == ["category/random", "category/popular", "category/adversarial"]
    assert found.subsets["category/popular"]["f1"] == 2 / 3


def test_an_unread_reply_is_the_wrong_answer_strictly() -> None:
    """A model that says nothing has, officially, a recall of 1 and an F1 of 2/3."""
    items, replies = questions(random=["yes:", "no:", "yes:Yes", "no:No"])
    found = score(items, replies).subsets["category/random"]
    assert (found["recall"], found["f1"]) == (1, 4 / 5)
    assert (found["strict_precision"], found["strict_recall"], found["strict_f1"]) == (1 / 2, 1 / 2, 1 / 2)
    assert found["strict_accuracy"] == 1 / 2
    assert found["unparsed"] == 2
    assert "strict_yes_ratio" not in found


def test_predicted_yes_is_counted_not_the_reference() -> None:
    """A harness in use reports the share of yes among the references, which is always one half."""
    items, replies = questions(random=["yes:Yes", "no:Yes", "no:Yes", "yes:Yes"])
    assert score(items, replies).metrics["yes_ratio"] == 1


def test_a_split_not_asked_is_left_out_of_the_means() -> None:
    items, replies = questions(popular=["yes:Yes"])
    found = score(items, replies)
    assert found.metrics["f1"] == 1
    assert list(found.subsets) == ["category/popular"]
    assert score([], []).metrics == {"items": 0, "unparsed": 0}


# Files


def line(number: int, image: str = "COCO_val2014_000000000001.jpg", label: str = "yes") -> dict[str, Any]:
    return {
        "question_id": number,
        "image": image,
        "image_id": 1,
        "text": "Is there a dog in the image?",
        "label": label,
    }


@pytest.fixture
def pope(tmp_path: Path, write_lines, encoded) -> Path:
    """The official files, and the images of COCO beside them."""
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014" / "COCO_val2014_000000000001.jpg").write_bytes(encoded(format="JPEG"))
    for kind in ("random", "popular", "adversarial"):
        write_lines(tmp_path / "output" / "coco" / f"coco_pope_{kind}.json", line(1), line(2, label="no"))
    return tmp_path


def load(path: Path | str, split: str = "all", **fields: Any) -> tuple[list[BenchmarkItem], list[BadSample]]:
    found = list(POPE.load(DataLocation(path=str(path), split=split, **fields)))
    return [one for one in found if isinstance(one, BenchmarkItem)], [
        one for one in found if isinstance(one, BadSample)
    ]


def test_official_files(pope: Path) -> None:
    items, bad = load(pope)
    assert not bad
    assert [one.id for one in items] == [f"{kind}-{i}" for kind in ("random", "popular", "adversarial") for i in (1, 2)]
    assert items[1].reference == "no"
    assert items[0].prompt == "Is there a dog in the image? Please answer yes or no."
    assert items[0].images == (pope / "val2014" / "COCO_val2014_000000000001.jpg",)
    assert [one.facts["category"] for one in load(pope, "popular")[0]] == ["popular", "popular"]


def test_official_files_and_images_apart(pope: Path, tmp_path: Path) -> None:
    """People keep COCO in one place for all benchmarks."""
    (pope / "val2014").rename(tmp_path / "coco2014")
    for folder in (pope, pope / "output", pope / "output" / "coco"):
        assert len(load(folder, images=tmp_path / "coco2014")[0]) == 6


def test_one_official_file(pope: Path) -> None:
    file = pope / "output" / "coco" / "coco_pope_popular.json"
    for split in ("all", "popular"):
        items, _ = load(file, split, images=pope / "val2014")
        assert [one.id for one in items] == ["popular-1", "popular-2"]


def test_bad_lines_are_listed(pope: Path, write_lines) -> None:
    """Each would otherwise be dropped, or end the run at its line."""
    write_lines(
        pope / "output" / "coco" / "coco_pope_random.json",
        line(1),
        '{"question_id": 2,',
        line(3, label="maybe"),
        line(4, image="COCO_val2014_000000000404.jpg"),
        line(5) | {"text": " "},
        line(1),
        line(6) | {"image": None},
        line(7, image="../private.jpg"),
    )
    items, bad = load(pope, "random")
    assert [one.id for one in items] == ["random-1"]
    reasons = dict(zip([row.id for row in bad], [row.reason for row in bad], strict=True))
    assert "not JSON" in reasons["coco_pope_random.json line 2"]
    assert "answer is 'maybe': yes or no is needed" in reasons["random-3"]
    assert "picture COCO_val2014_000000000404.jpg is missing: looked in" in reasons["random-4"]
    assert "question is empty" in reasons["random-5"]
    assert "occurs twice" in reasons["random-1"]
    assert "image is None" in reasons["random-6"]
    assert "outside" in reasons["random-7"]


def test_unknown_layouts_say_what_was_looked_for(pope: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"test\*.parquet.*nor are there coco_pope_random.json, coco_pope_popular.json"
    ):
        load(tmp_path / "val2014")
    (pope / "output" / "coco" / "coco_pope_random.json").unlink()
    with pytest.raises(ValueError, match=r"nor are there coco_pope_random.json"):
        load(pope)  # two splits of three are not the benchmark
    assert len(load(pope, "popular")[0]) == 2
    with pytest.raises(ValueError, match="split is 'test': POPE has all, random, popular, adversarial"):
        load(pope, "test")


FEATURES = datasets.Features(
    {name: datasets.Value("string") for name in ("id", "question_id", "question", "answer", "image_source")}
    | {"image": datasets.Image(), "category": datasets.Value("string")}
)


def table(encoded) -> datasets.Dataset:
    picture = {"bytes": encoded(), "path": None}
    rows = [
        ("0", "1", "Is there a dog in the image?", "yes", "COCO_val2014_000000000001", picture, "adversarial"),
        ("1", "1", "Is there a cat in the image?", "no", "COCO_val2014_000000000001", picture, "popular"),
        ("2", "2", "Is there a cat in the image?", "no", "COCO_val2014_000000000001", None, "popular"),
        ("3", "3", "Is there a cat in the image?", "no", "COCO_val2014_000000000001", picture, "odd"),
    ]
    return datasets.Dataset.from_list([dict(zip(FEATURES, row, strict=True)) for row in rows], features=FEATURES)


def test_table_in_a_folder(tmp_path: Path, encoded) -> None:
    table(encoded).to_parquet(tmp_path / "data" / "test-00000-of-00003.parquet")
    items, bad = load(tmp_path)
    assert [(one.id, one.reference) for one in items] == [("adversarial-1", "yes"), ("popular-1", "no")]
    assert [row.id for row in bad] == ["popular-2", "row 3"]
    assert "category is 'odd'" in bad[1].reason
    assert [one.id for one in load(tmp_path, "popular")[0]] == ["popular-1"]


def test_table_of_the_hub(monkeypatch, encoded) -> None:
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **options: asked.append((args, options)) or table(encoded)
    )
    items, _ = load(POPE.hub, limit=1)
    assert [one.id for one in items] == ["adversarial-1"]
    assert asked == [(("lmms-lab/POPE", None), {"split": "test"})]


def test_a_table_with_other_columns(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"question": "Is there a dog?"}]).to_parquet(tmp_path / "test.parquet")
    with pytest.raises(ValueError, match="looked for the columns question_id"):
        load(tmp_path)
