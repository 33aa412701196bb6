"""MMHal-Bench: what a judge's reply says, what becomes of nonsense, rates by hand, and its files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pytest

from look_again.data.sample import BadSample
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply
from look_again.evaluation.benchmarks.mmhal import (
    MMHAL,
    QUESTION_TYPES,
    REMINDER,
    TRIES,
    judge_prompt,
    read_rating,
    rubric,
    score,
)
from look_again.evaluation.comparison import paired_difference


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("Two dogs are invented.\nRating: 2", 2),
        ("rating: 6", 6),
        ("**Rating:** 4", 4),
        ("Rating: **0**", 0),
        ("Rating: [[5]]", 5),
        ("Overall rating: 3/6", 3),
        ("Rating: 4.", 4),
        ("Rating = 1", 1),
        ("Rating: 5\nAs said: rating: 5", 5),
        ("Rating: 3 or Rating: 4", None),  # officially too, two ratings are none
        ("Rating: 7", None),
        ("Rating: 10", None),
        ("Rating: 4.5", None),
        ("Rating: -1", None),
        ("Rating: N", None),
        ("I would give it a 5.", None),
        ("", None),
    ],
)
def test_ratings_as_they_are_read(reply: str, rating: int | None) -> None:
    """Taking the first digit anywhere would make 10 a 1, a half rating a whole one, and a choice of two one of them."""
    assert read_rating(reply) == rating


def item(kind: str = "attribute", **facts: Any) -> BenchmarkItem:
    return BenchmarkItem(
        id="0",
        prompt="What colour is the hydrant cap?",
        reference="Yellow.",
        facts={"question_type": kind, "image_content": ["Fire hydrant", "Street"]} | facts,
    )


class Script:
    """A judge that says the given replies in turn and keeps what it was asked; an exception is raised."""

    def __init__(self, replies: Sequence[str | Exception]) -> None:
        self.replies: Iterator[str | Exception] = iter(replies)
        self.prompts: list[str] = []

    def __call__(self, prompt: str) -> str:
        self.prompts.append(prompt)
        reply = next(self.replies)
        if isinstance(reply, Exception):
            raise reply
        return reply


def test_the_judge_sees_everything_once() -> None:
    prompt = judge_prompt(item(), "It is {{reference}} $answer.")
    for part in ("Fire hydrant, Street", "What colour is the hydrant cap?", "\nYellow.\n", "Rating: N"):
        assert part in prompt
    assert "It is {{reference}} $answer." in prompt  # an answer must not be able to fill itself in
    assert {f"{{{{{name}}}}}" for name in ("contents", "question", "reference", "answer")} <= set(rubric().split())


def test_rates_by_hand() -> None:
    """Ratings 6, 3, 2 and 0: mean 11/4; below 3 are two of four."""
    items = [item("attribute"), item("attribute"), item("counting"), item("other")]
    judge = Script(["Rating: 6", "Rating: 3", "Rating: 2", "Rating: 0"])
    found = score(items, [ModelReply("Yellow")] * 4, judge)
    assert found.metrics["score"] == found.metrics["strict_score"] == found.metrics["judged_score"] == 11 / 4
    assert found.metrics["hallucination_rate"] == 2 / 4
    assert found.subsets["question_type/attribute"]["score"] == 9 / 2
    assert found.subsets["question_type/attribute"]["hallucination_rate"] == 0
    assert list(found.subsets) == ["question_type/attribute", "question_type/counting", "question_type/other"]
    assert [one.official for one in found.items] == [6, 3, 2, 0]
    assert [one.facts["hallucinated"] for one in found.items] == [0, 0, 1, 1]
    assert "mmhal_judge.md, version " in found.notes["judge"]


def test_nonsense_is_asked_again_with_a_reminder() -> None:
    judge = Script(["Good answer!", "Rating: 3 or rating: 5", "Rating: 5"])
    found = score([item()], [ModelReply("Yellow")], judge)
    assert found.metrics["score"] == 5
    assert (found.metrics["unjudged"], found.items[0].facts["judge_tries"]) == (0, 3)
    assert REMINDER not in judge.prompts[0]
    assert all(prompt.endswith(REMINDER) for prompt in judge.prompts[1:])


def test_a_judge_that_stays_with_nonsense_leaves_the_answer_unjudged() -> None:
    """Officially 0 and a hallucination; the count and judged_… show that it is the judge's failure."""
    judge = Script(["Rating: 4", *["Nice."] * TRIES])
    found = score([item(), item()], [ModelReply("Yellow")] * 2, judge)
    assert found.metrics["unjudged"] == 1
    assert (found.metrics["score"], found.metrics["hallucination_rate"]) == (2, 1 / 2)
    assert (found.metrics["judged_score"], found.metrics["judged_hallucination_rate"]) == (4, 0)
    assert found.items[1].facts["rating"] is None
    assert found.items[1].facts["judge_said"] == found.items[1].unjudged == "Nice."
    assert found.items[0].unjudged is None
    assert len(judge.prompts) == 1 + TRIES


def test_an_unjudged_answer_is_left_out_of_pairs() -> None:
    """The same answers, the judge down for half of one run: a 0 would make a difference that no answer made."""
    judges = [Script(["Rating: 4", last]) for last in ("Rating: 4", OSError("down"))]
    both = [score([item()] * 2, [ModelReply("Yellow")] * 2, judge) for judge in judges]
    for field in ("official", "strict", MMHAL.paired, "hallucinated"):
        values = [[getattr(one, field, one.facts.get(field)) for one in found.items] for found in both]
        made = paired_difference(*values)
        assert (made.n, made.undefined, made.difference) == (1, 1, 0), field


def test_a_judge_that_cannot_be_reached_ends_no_run() -> None:
    judge = Script([TimeoutError("too slow"), "Rating: 4"])
    found = score([item(), item()], [ModelReply("Yellow")] * 2, judge)
    assert found.metrics["unjudged"] == 1
    assert found.items[0].facts["judge_said"] == "no reply: too slow"
    assert found.metrics["judged_score"] == 4


def test_without_any_verdict_there_is_no_score() -> None:
    """A judge that was down all along must not look like a model that always hallucinates."""
    found = score([item()], [ModelReply("Yellow")], Script([ConnectionError("down")]))
    assert found.metrics["score"] is None
    assert found.metrics["hallucination_rate"] is None
    assert found.metrics["unjudged"] == 1


def test_an_empty_answer_is_nothing_strictly() -> None:
    """Saying nothing is "no hallucination" to a judge: 3 of 6 for silence."""
    found = score([item()], [ModelReply("x", "")], Script(["Rating: 3"]))
    assert (found.metrics["score"], found.metrics["strict_score"]) == (3, 0)
    assert (found.metrics["hallucination_rate"], found.metrics["strict_hallucination_rate"]) == (0, 1)
    assert found.metrics["unparsed"] == 1


def test_the_conclusion_is_what_is_judged() -> None:
    judge = Script(["Rating: 5"])
    score([item()], [ModelReply("<REASONING>Maybe red</REASONING><CONCLUSION>Yellow</CONCLUSION>", "Yellow")], judge)
    assert "Maybe red" not in judge.prompts[0]


def test_a_judge_is_needed() -> None:
    assert MMHAL.needs_judge
    with pytest.raises(ValueError, match="scored by a judge"):
        score([item()], [ModelReply("Yellow")], None)


# Files


def question(image: str = "a_o.jpg", kind: str | None = "counting") -> dict[str, Any]:
    given = {
        "question_type": kind,
        "question_topic": "outdoor",
        "image_id": "ebbc5c3c4b35bedd",
        "image_src": f"https://c6.staticflickr.com/2/1333/{image}",
        "image_content": ["Plant", "Sheep"],
        "question": "How many sheep are there?",
        "gt_answer": "There are two.",
        "model_answer": "",
    }
    return given if kind else {name: value for name, value in given.items() if name != "question_type"}


@pytest.fixture
def mmhal(tmp_path: Path, encoded) -> Path:
    """The benchmark's repository with two questions of one image."""
    root = tmp_path / "MMHal-Bench"
    (root / "images").mkdir(parents=True)
    (root / "images" / "a_o.jpg").write_bytes(encoded(format="JPEG"))
    (root / "response_template.json").write_text(json.dumps([question(), question(kind=None)]))
    return root


def load(path: Path | str, **fields: Any) -> tuple[list[BenchmarkItem], list[BadSample]]:
    found = list(MMHAL.load(DataLocation(path=str(path), split="test", **fields)))
    return [one for one in found if isinstance(one, BenchmarkItem)], [
        one for one in found if isinstance(one, BadSample)
    ]


def test_repository_layout(mmhal: Path) -> None:
    items, bad = load(mmhal)
    assert not bad
    assert items[0].id == "0"
    assert items[0].prompt == "How many sheep are there?"
    assert items[0].reference == "There are two."
    assert items[0].images == (mmhal / "images" / "a_o.jpg",)
    assert items[0].facts == {"question_type": "counting", "image_content": ["Plant", "Sheep"]}
    assert items[1].facts["question_type"] == QUESTION_TYPES[1] == "adversarial"  # by its place, as officially
    assert len(load(mmhal / "response_template.json")[0]) == 2


def test_bad_questions_are_listed(mmhal: Path) -> None:
    records = [
        question(),
        question(image="gone.jpg"),
        question() | {"question": ""},
        question(kind="odd"),
        question() | {"image_content": "Sheep"},
        "no question",
        question(image="../../private.jpg") | {"image_src": "../private.jpg"},
        question() | {"gt_answer": None},
    ]
    (mmhal / "response_template.json").write_text(json.dumps(records))
    items, bad = load(mmhal)
    assert [one.id for one in items] == ["0"]
    reasons = {row.id: row.reason for row in bad}
    assert "picture gone.jpg is missing: looked in" in reasons["1"]
    assert "question is empty" in reasons["2"]
    assert "question_type is 'odd'" in reasons["3"]
    assert "image_content is 'Sheep'" in reasons["4"]
    assert "is no question" in reasons["5"]
    assert "private.jpg is missing" in reasons["6"]
    assert "gt_answer is None" in reasons["7"]


def test_images_elsewhere(mmhal: Path, tmp_path: Path) -> None:
    (mmhal / "images").rename(tmp_path / "pictures")
    assert len(load(mmhal, images=tmp_path / "pictures")[0]) == 2
    assert len(load(mmhal)[1]) == 2


@pytest.mark.parametrize(
    ("text", "complaint"), [("{}", "looked for a list of questions"), ("[", "cannot be read as JSON")]
)
def test_a_damaged_template_is_refused(mmhal: Path, text: str, complaint: str) -> None:
    (mmhal / "response_template.json").write_text(text)
    with pytest.raises(ValueError, match=complaint):
        load(mmhal)


def test_unknown_layouts_say_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"test\*.parquet.*nor is there response_template.json"):
        load(tmp_path)


def test_the_hub_s_files_are_fetched(monkeypatch, mmhal: Path) -> None:
    """Its data set loads by a script, which the library refuses."""
    asked = []
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *args, **options: asked.append((args, options)) or str(mmhal)
    )
    assert len(load(MMHAL.hub)[0]) == 2
    patterns = ["response_template.json", "images/*"]
    assert asked == [(("Shengcao1006/MMHal-Bench",), {"repo_type": "dataset", "allow_patterns": patterns})]


FEATURES = datasets.Features(
    question=datasets.Value("string"),
    question_type=datasets.Value("string"),
    gt_answer=datasets.Value("string"),
    image_content=datasets.List(datasets.Value("string")),
    image=datasets.Image(),
)


def table(encoded) -> datasets.Dataset:
    picture = {"bytes": encoded(), "path": None}
    rows = [("How many?", "counting", "Two.", ["Sheep"], picture), ("How many?", "counting", "Two.", ["Sheep"], None)]
    return datasets.Dataset.from_list([dict(zip(FEATURES, row, strict=True)) for row in rows], features=FEATURES)


def test_table_in_a_folder(tmp_path: Path, encoded) -> None:
    table(encoded).to_parquet(tmp_path / "data" / "test-00000-of-00001.parquet")
    items, bad = load(tmp_path)
    assert [(one.id, one.facts["question_type"]) for one in items] == [("0", "counting")]
    assert [row.id for row in bad] == ["1"]


def test_a_hub_repository_that_is_a_table(monkeypatch, tmp_path: Path, encoded) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(tmp_path))
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **options: table(encoded))
    assert len(load("some/MMHal-Bench")[0]) == 1
