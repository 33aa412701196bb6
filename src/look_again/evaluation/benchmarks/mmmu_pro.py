"""MMMU-Pro: MMMU's questions with ten options, and the same as an image of question and options alone.

The paper reports one number and does not say which part or prompt; both parts are here. Items and score follow the
repository of MMMU-Pro, which reads the letter behind the last "Answer:" before it does what MMMU does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from string import ascii_uppercase

from look_again.data.fields import parse_image
from look_again.data.sample import BadSample, Sample
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import (
    STRICT_RULE,
    guess,
    lmms_letter,
    reference_letter,
    score_choice,
    summarise_choices,
)
from look_again.evaluation.benchmarks.mmmu import choice_item, listed_options, parse_groups
from look_again.evaluation.files.layouts import Record, build_item, build_items, check_split, read_tables, row_id

STANDARD = "standard (10 options)"
VISION = "vision"
SPLITS = ("test",)

VISION_QUESTION = "The picture shows a question with its options."
VISION_INSTRUCTION = "Which of its options is right? Give the letter as the final answer."

_COLUMNS = {
    STANDARD: ("id", "question", "options", "answer", "image_1"),
    VISION: ("id", "options", "answer", "image"),
}


def mmmu_pro_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter as MMMU-Pro's parser reads it; None where it would guess.

    Behind the last "Answer:" any capital A to J counts, also inside a word, if it is the only one; else MMMU's rule
    for the whole reply. (MMMU-Pro, evaluate.py.)
    """
    _, cue, rest = text.rpartition("Answer:")
    named = [letter for letter in ascii_uppercase[: len(options)] if cue and letter in rest]
    return named[0] if len(named) == 1 else lmms_letter(text, options)


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Accuracies of the whole, per subject and per discipline. No judge is asked."""
    scores = []
    for item, reply in zip(items, replies, strict=True):
        found = mmmu_pro_letter(reply.final, item.facts["options"])
        official = guess(item.id, item.facts["options"]) if found is None else found
        scores.append(score_choice(item, reply, official, guessed=found is None))
    notes = {
        "official": "MMMU-Pro evaluate.py; a reply without an answer gets a random letter, seeded by the item's id",
        "strict": STRICT_RULE,
    }
    guessed = sum(bool(one.facts["guessed"]) for one in scores)
    return summarise_choices(items, scores, ("discipline", "subject"), notes, guessed=guessed)


def load_standard(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items with ten options: the hub's configuration, one Parquet file, or a folder.

    A folder holds `standard (10 options)/test-….parquet`, or such files itself. ValueError for none of these.
    """
    return _load(location, STANDARD, _standard_item)


def load_vision(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items that are an image alone: as `load_standard`, with the folder `vision`."""
    return _load(location, VISION, _vision_item)


def _load(
    location: DataLocation, configuration: str, make: Callable[[Record, int], BenchmarkItem]
) -> Iterator[BenchmarkItem | BadSample]:
    check_split(location, "MMMU-Pro", SPLITS)
    folders = (configuration, "", "data")
    records = read_tables(location, _COLUMNS[configuration], folders=folders, configuration=configuration)
    return build_items(records, make, location.limit)


def _standard_item(record: Record, index: int) -> BenchmarkItem:
    name = row_id(record, "id", index)
    return choice_item(record, name, listed_options(record.get("options"), name))


def _vision_item(record: Record, index: int) -> BenchmarkItem:
    """Its options are in the image alone; the scorer needs their texts."""
    name = row_id(record, "id", index)
    options = listed_options(record.get("options"), name)
    row = Sample(
        id=name,
        images=(parse_image(record.get("image"), name, "image", None),),
        question=VISION_QUESTION,
        reference=reference_letter(record.get("answer"), options, name),
        source="mmmu-pro",
    )
    return build_item(row, VISION_INSTRUCTION, options=list(options), **parse_groups(record, name))


MMMU_PRO = Benchmark(
    name="mmmu-pro",
    hub="MMMU/MMMU_Pro",
    splits=SPLITS,
    load=load_standard,
    score=score,
    primary="accuracy",
)
MMMU_PRO_VISION = Benchmark(
    name="mmmu-pro-vision",
    hub="MMMU/MMMU_Pro",
    splits=SPLITS,
    load=load_vision,
    score=score,
    primary="accuracy",
)
