"""Samples are checked before any time is spent on them: every bad one is listed at once, with the reason.

Images are decoded as training will decode them, on all processors: a file that is cut off ends no run in its middle.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tqdm import tqdm

from look_again.data.image_files import MAX_PIXELS, ImageSource, LazyImage, image_size, open_image
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.images import ImageError
from look_again.text.grammar import Problem, parse

ON_BAD_ROW = ("refuse", "skip")
LISTED = 8  # bad rows named in a message
REASON_CHARACTERS = 240
PROBLEMS_NAMED = 4  # of one response
PART = 64  # samples that are checked together
BAR_DELAY_S = 1.0  # before a progress bar shows


@dataclass(frozen=True, kw_only=True)
class SampleReport:
    """What a check found; printing it lists the bad rows.

    good: rows that passed. without_image: of these, rows without an image. bad: rows left out.
    """

    good: int
    without_image: int
    bad: tuple[BadSample, ...] = ()

    @property
    def rows(self) -> int:
        """Rows looked at."""
        return self.good + len(self.bad)

    def __str__(self) -> str:
        head = f"{self.good} of {self.rows} rows are good, {self.without_image} of them without a picture"
        return f"{head}\n{self.listing()}" if self.bad else head

    def listing(self, most: int = LISTED) -> str:
        """The bad rows, `most` of them by name, one per line."""
        lines = [f"  {_line(bad.id, 80)}: {_line(bad.reason, REASON_CHARACTERS)}" for bad in self.bad[:most]]
        if len(self.bad) > most:
            lines.append(f"  and {len(self.bad) - most} more")
        return "\n".join([f"{len(self.bad)} bad {'row' if len(self.bad) == 1 else 'rows'}:", *lines])


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a sample must have besides a question and readable images.

    min_reflections: REFLECTIONs a response has at least (paper: 1; 0 for data before reflections are put in).
    needs_response: a response in the grammar; where none is needed, one that is there is not looked at.
    needs_reference: an answer to score against. needs_image: at least one image.
    max_pixels: of an image, width x height. decode: the images' pixels too; False reads their headers alone.

    Raises ValueError for numbers out of range.
    """

    min_reflections: int = 1
    needs_response: bool = True
    needs_reference: bool = False
    needs_image: bool = False
    max_pixels: int = MAX_PIXELS
    decode: bool = True

    def __post_init__(self) -> None:
        if self.min_reflections < 0:
            raise ValueError(f"min_reflections is {self.min_reflections}: use 0 or more")
        if self.max_pixels < 1:
            raise ValueError(f"max_pixels is {self.max_pixels}: use 1 or more")


def check_sample(sample: Sample, needs: Needs) -> list[str]:
    """What is wrong with a sample: [] if nothing."""
    reasons = [] if sample.question.strip() else ["the question is empty"]
    if needs.needs_image and not sample.images:
        reasons.append("no picture")
    if needs.needs_reference and not (sample.reference or "").strip():
        reasons.append("no reference answer")
    if needs.needs_response:
        reasons += _response_reasons(sample.response, needs.min_reflections)
    images = (_image_reason(image, needs) for image in sample.images)
    return reasons + [f"image {number}: {reason}" for number, reason in enumerate(images, start=1) if reason]


def check_samples(
    samples: Iterable[Sample], *, progress: bool = True, **needs: Any
) -> tuple[list[Sample], list[BadSample]]:
    """The rows that have what `Needs(**needs)` says and those that do not, in order.

    `progress` shows a bar once the check has taken a second. ValueError and TypeError as `Needs` raises them.
    """
    needed = Needs(**needs)
    good: list[Sample] = []
    bad: list[BadSample] = []
    pairs = tqdm(_checked(samples, needed), desc="checking rows", unit="row", delay=BAR_DELAY_S, disable=not progress)
    for sample, reasons in pairs:
        if reasons:
            bad.append(BadSample(sample.id, "; ".join(reasons)))
        else:
            good.append(sample)
    return good, bad


def _checked(samples: Iterable[Sample], needs: Needs) -> Iterator[tuple[Sample, list[str]]]:
    """Each sample and what is wrong with it, in order; decoding leaves Python's lock, so threads share the work."""
    stream = iter(samples)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while part := list(islice(stream, PART)):
            yield from zip(part, pool.map(lambda sample: check_sample(sample, needs), part), strict=True)


def select_samples(
    samples: Iterable[Sample],
    *,
    on_bad_row: str = "refuse",
    passed_over: Sequence[BadSample] = (),
    progress: bool = True,
    **needs: Any,
) -> tuple[list[Sample], SampleReport]:
    """The good rows and the report, checked as `check_rows` does.

    `passed_over` are rows that loading left out; they count as bad. It may fill while `rows` is read:

        skipped = []
        rows, report = select_samples(load_samples(source, on_skip=skipped.append), passed_over=skipped)

    Raises SampleError with the report's listing for bad rows under "refuse", and when no row is good; ValueError for
    another `on_bad_row`.
    """
    if on_bad_row not in ON_BAD_ROW:
        raise ValueError(f"on_bad_row is {on_bad_row!r}: use one of {', '.join(ON_BAD_ROW)}")
    good, bad = check_samples(samples, progress=progress, **needs)
    without_image = sum(not sample.images for sample in good)
    report = SampleReport(good=len(good), without_image=without_image, bad=(*passed_over, *bad))
    if report.bad and on_bad_row == "refuse":
        raise SampleError(None, f'{report.listing()}\nmend them, or leave them out with on_bad_row="skip"')
    if not good:
        raise SampleError(None, f"no good rows\n{report.listing()}" if report.bad else "there are no rows to check")
    return good, report


def _response_reasons(response: str | None, min_reflections: int) -> list[str]:
    if response is None or not response.strip():
        return ["no response"]
    problems = parse(response, min_reflections=min_reflections).problems
    named = [_problem(problem) for problem in problems[:PROBLEMS_NAMED]]
    more = [f"and {len(problems) - PROBLEMS_NAMED} more"] if len(problems) > PROBLEMS_NAMED else []
    return [f"response: {', '.join([*named, *more])}"] if problems else []


def _problem(problem: Problem) -> str:
    name = f"{problem.kind} {problem.tag}" if problem.tag else problem.kind
    return name if problem.kind == "missing" else f"{name} at character {problem.at}"


def _image_reason(image: ImageSource, needs: Needs) -> str | None:
    try:
        if not (needs.decode and isinstance(image, LazyImage)):  # which would be fetched or drawn twice
            image_size(image, max_pixels=needs.max_pixels)
        if needs.decode:
            open_image(image, max_pixels=needs.max_pixels)
    except ImageError as error:
        return str(error)
    return None


def _line(text: str, most: int) -> str:
    """The text on one line, printable, cut to `most` characters: ids and names come from strangers' files."""
    plain = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
    return plain if len(plain) <= most else f"{plain[: most - 1]}…"
