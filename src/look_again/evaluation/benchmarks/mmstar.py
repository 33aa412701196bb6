"""MMStar: 1,500 questions that need their image, in six categories of three subcategories each.

The paper reports it and no protocol. The questions carry their options in their text; the official score reads one
character at a fixed place of the reply, so that "A cat" is A. The strict one reads the answer.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence

from look_again.data.fields import check_text, parse_image
from look_again.data.sample import BadSample, Sample
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, ItemScore, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import (
    LETTER_INSTRUCTION,
    STRICT_RULE,
    mean,
    reference_letter,
    score_choice,
    summarise_choices,
)
from look_again.evaluation.files.layouts import Record, build_item, build_items, check_split, label, read_tables, row_id
from look_again.scoring.extraction import LETTERS

SPLITS = ("val",)
OPENINGS = ("", "(", "option ", "the answer is ")
"""What may stand before the letter in the official rule."""

_COLUMNS = ("index", "question", "image", "answer", "category", "l2_category")
_UNKNOWN = ("", "", "", "")  # four options whose texts could not be read; letters alone name them
_OPTION = re.compile(r"(?:\A|[,;\s])\s*\(?([A-J])[:.)]\s")


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items: the hub's, one Parquet file, or a folder with `mmstar.parquet` or `val-….parquet`.

    ValueError for none of these.
    """
    check_split(location, "MMStar", SPLITS)
    return build_items(read_tables(location, _COLUMNS, tables=("mmstar.parquet",)), _item, location.limit)


def _item(record: Record, index: int) -> BenchmarkItem:
    name = row_id(record, "index", index)
    question = check_text(record.get("question"), name, "question")
    options = options_within(question) or _UNKNOWN
    row = Sample(
        id=name,
        images=(parse_image(record.get("image"), name, "image", None),),
        question=question.strip(),
        reference=reference_letter(record.get("answer"), options, name),
        source="mmstar",
    )
    groups = {"category": label(record, "category"), "l2_category": label(record, "l2_category")}
    return build_item(row, LETTER_INSTRUCTION, options=list(options), **groups)


def options_within(question: str) -> tuple[str, ...]:
    """The texts behind "Options:", as in "Options: A: red, B: blue"; () unless there are two or more, in order."""
    _, found, text = question.rpartition("Options:")
    marks: list[re.Match[str]] = []
    for mark in _OPTION.finditer(text if found else ""):
        if mark[1] == LETTERS[len(marks) : len(marks) + 1]:
            marks.append(mark)
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    pieces = (text[mark.end() : end].strip() for mark, end in zip(marks, ends, strict=False))
    texts = tuple(piece.split("\n")[0].rstrip(" ,;") for piece in pieces)
    return texts if len(texts) > 1 and all(texts) else ()


def mmstar_letter(text: str, options: Sequence[str]) -> str | None:
    """The letter that the official rule sees: the first character, or that behind "(", "option " or "the answer is ".

    None where that character is none of the options' letters. (MMStar, evaluate/mmstar.py.)
    """
    text = text.lower().strip().replace("\n", " ")
    at = max(len(opening) for opening in OPENINGS if text.startswith(opening))
    letter = text[at : at + 1].upper()
    return letter if letter and letter in LETTERS[: len(options)] else None


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Accuracies of the whole, per category and subcategory; `l2_average` is the mean over the subcategories."""
    scores = [
        score_choice(item, reply, mmstar_letter(reply.final, item.facts["options"]))
        for item, reply in zip(items, replies, strict=True)
    ]
    notes = {
        "official": "MMStar mmstar.py: the first character, or that behind '(', 'option ' or 'the answer is '",
        "strict": STRICT_RULE,
        "l2_average": "the mean of the subcategories' accuracies, which lmms-eval reports; equal to accuracy in full",
    }
    return summarise_choices(items, scores, ("category", "l2_category"), notes, l2_average=_l2_average(items, scores))


def _l2_average(items: Sequence[BenchmarkItem], scores: Sequence[ItemScore]) -> float | None:
    groups: dict[str, list[float]] = defaultdict(list)
    for item, one in zip(items, scores, strict=True):
        groups[item.facts["l2_category"]].append(one.official or 0.0)
    return mean([sum(group) / len(group) for group in groups.values()])


MMSTAR = Benchmark(
    name="mmstar",
    hub="Lin-Chen/MMStar",
    splits=SPLITS,
    load=load,
    score=score,
    primary="accuracy",
)
