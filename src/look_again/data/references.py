"""What the loaders of the paper's reinforcement-learning questions share: samples that have a usable reference.

Each of them turns its own columns into the shapes that `look_again.data.records` reads. Samples get ids that start with
the name of their set, since five sets are mixed. A reference that no answer could be graded against is a SampleError
here, not in the middle of a run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase, digits

from look_again.data.records import Record, sample_from_record
from look_again.data.sample import Sample, SampleError
from look_again.scoring.extraction import answer_kind
from look_again.scoring.grading import MAX_REFERENCE

Shape = Callable[[Record, str], Record]
"""A function from a published record and its sample's id to a record for `sample_from_record`, or SampleError."""

AT_LINE_STARTS = (re.compile(r"(?m)^[ \t]*(?:\(([A-H])\)|([A-H])[.)])"),)
INLINE = (re.compile(r"\(([A-Ha-h1-9])\)"), re.compile(r"(?<!\S)([A-Ha-h1-9])[.)](?!\S)"))


@dataclass(frozen=True)
class Choices:
    """Options found in a text. before: what stands in front of them. labels, texts: of each, in order."""

    before: str
    labels: str
    texts: tuple[str, ...]


def split_choices(text: str, styles: Iterable[re.Pattern[str]]) -> Choices | None:
    """The options "A. red B. blue" or "(1) 6 (2) 8" in a text, in the first style whose labels are in order.

    None where labels are missing, repeated or out of order: then a guess would cut the text in the wrong place.
    """
    for style in styles:
        matches = list(style.finditer(text))
        labels = "".join(match[match.lastindex or 0] for match in matches).upper()
        if len(matches) > 1 and labels in (ascii_uppercase[: len(matches)], digits[1 : len(matches) + 1]):
            ends = [match.start() for match in matches[1:]] + [len(text)]
            texts = tuple(text[match.end() : end].strip() for match, end in zip(matches, ends, strict=True))
            return Choices(text[: matches[0].start()].strip(), labels, texts)
    return None


def question_samples(
    records: Iterable[Record | SampleError],
    shape: Shape,
    *,
    source: str,
    split: str,
    base: Path | None,
    needs_image: bool = True,
) -> Iterator[Sample | SampleError]:
    """Each record's sample, or its SampleError as a value. A record's `id` becomes "source-id"; others are counted."""
    for index, record in enumerate(records):
        if isinstance(record, SampleError):
            yield record
            continue
        own = record.get("id")
        row_id = f"{source}-{own}" if type(own) in (str, int) and own != "" else f"{source}-{split}-{index}"
        try:
            shaped = {**shape(record, row_id), "id": row_id}
            sample = sample_from_record(shaped, index=index, source=source, split=split, base=base)
            _check(sample, needs_image)
        except SampleError as error:
            yield error
        else:
            yield sample


def _check(sample: Sample, needs_image: bool) -> None:
    if needs_image and not sample.images:
        raise SampleError(sample.id, "no picture, and its questions are about one: download the set again")
    reference = sample.reference or ""
    if not reference.strip():
        raise SampleError(sample.id, "no reference answer")
    if len(reference) > MAX_REFERENCE:
        raise SampleError(sample.id, f"a reference of {len(reference)} characters: {MAX_REFERENCE} is the most")
    try:
        answer_kind(reference, sample.options)
    except ValueError as error:
        raise SampleError(sample.id, str(error)) from error
