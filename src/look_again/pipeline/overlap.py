"""Rows that training shares with evaluation: the same image, also resized or encoded again, or the same question.

An image is known by the hash of its pixels and by a small fingerprint of our own: 16 x 16 means of its grey levels, in
which a resized copy correlates with its original. Candidates found by that are confirmed in colour at 32 x 32. A
question alone counts only where no image is shown with it: "How many are there?" is asked of many.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from look_again.data.image_files import ImageSource, open_image
from look_again.data.loaders import load_samples
from look_again.data.sample import BadSample, Sample
from look_again.data.source import Source
from look_again.images import ImageError
from look_again.pipeline.contents import compute_digest

SMALL, LARGE = 16, 32  # sides of the two fingerprints
NEAR, SURE = 0.97, 0.985  # correlations that make a candidate, and a copy
FLAT = 2.0  # levels of standard deviation below which an image has nothing to compare
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class ImageFingerprint:
    """exact: hash of the pixels. grey: (256,) normalised; zeros for a flat image. colour: (3072,) normalised."""

    exact: str
    grey: np.ndarray
    colour: np.ndarray


@dataclass(frozen=True)
class SharedRow:
    """What a row shares with a row of an evaluation set. kind: "image", "resized image" or "question"."""

    kind: str
    row_id: str
    other_id: str
    other_source: str
    same_question: bool

    def __str__(self) -> str:
        return f"{self.kind} of {self.other_source} {self.other_id!r}"


@dataclass
class Known:
    """Fingerprints of evaluation rows. rows: (id, source, normalised question) of each image or text row."""

    by_image: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    by_question: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    images: list[tuple[int, ImageSource]] = field(default_factory=list)
    grey: np.ndarray = field(default_factory=lambda: np.zeros((0, SMALL * SMALL), np.float32))
    skipped: int = 0


def fingerprint(source: ImageSource) -> ImageFingerprint:
    """ImageError when the image cannot be read."""
    image = open_image(source)
    return ImageFingerprint(
        compute_digest(f"{image.size}".encode() + image.tobytes()),
        _normalised(image.convert("L").resize((SMALL, SMALL), Image.Resampling.BOX)),
        _normalised(image.resize((LARGE, LARGE), Image.Resampling.BOX)),
    )


def normalised_question(sample: Sample) -> str:
    """The words of question and options, in lower case, without marks and accents' variants."""
    text = unicodedata.normalize("NFKC", " ".join((sample.question, *sample.options))).casefold()
    return " ".join(_WORD.findall(text))


def load_fingerprints(sources: Iterable[Source]) -> Known:
    """Fingerprints of evaluation sets; rows and images that cannot be read are counted as skipped."""
    known, greys = Known(), list[np.ndarray]()
    skipped: list[BadSample] = []
    for source in sources:
        for sample in load_samples(source, on_skip=skipped.append):
            index = len(known.rows)
            known.rows.append((sample.id, sample.source, normalised_question(sample)))
            if not sample.images:
                known.by_question[known.rows[-1][2]].append(index)
            for image in sample.images:
                try:
                    image_print = fingerprint(image)
                except ImageError:
                    known.skipped += 1
                    continue
                known.by_image[image_print.exact].append(index)
                known.images.append((index, image))
                greys.append(image_print.grey)
    known.skipped += len(skipped)
    known.grey = np.stack(greys) if greys else known.grey
    return known


def shared_with(sample: Sample, known: Known) -> list[SharedRow]:
    """What a row shares with the known ones; [] for nothing. An image that cannot be read shares nothing."""
    question = normalised_question(sample)
    shared: dict[tuple[str, int], SharedRow] = {}
    for image in sample.images:
        try:
            image_print = fingerprint(image)
        except ImageError:
            continue
        exact: set[int] = set(known.by_image.get(image_print.exact, []))
        resized = _copies(image_print, known) - exact
        for kind, indices in (("picture", exact), ("resized picture", resized)):
            shared |= {(kind, index): _match(kind, sample, question, index, known) for index in sorted(indices)}
    if not sample.images and question:
        texts = known.by_question.get(question, [])
        shared |= {("question", index): _match("question", sample, question, index, known) for index in texts}
    return list(shared.values())


def overlap(sources: Sequence[Source], evaluation: Sequence[Source], listed: int = 20) -> dict[str, Any]:
    """Counts of rows that `sources` share with `evaluation`, by kind, and the first ones by name."""
    known = load_fingerprints(evaluation)
    rows = shared = same_question = 0
    kinds: dict[str, int] = defaultdict(int)
    named: list[dict[str, Any]] = []
    skipped: list[BadSample] = []
    for source in sources:
        for sample in load_samples(source, on_skip=skipped.append):
            rows += 1
            matches = shared_with(sample, known)
            shared += bool(matches)
            same_question += any(match.same_question for match in matches)
            for kind in {match.kind for match in matches}:
                kinds[kind] += 1
            if matches and len(named) < listed:
                named.append(vars(matches[0]))
    totals = {
        "rows": rows,
        "evaluation_rows": len(known.rows),
        "shared": shared,
        "with_the_same_question": same_question,
    }
    return {**totals, "by_kind": dict(kinds), "unreadable": known.skipped + len(skipped), "rows_shared": named}


def _match(kind: str, sample: Sample, question: str, index: int, known: Known) -> SharedRow:
    other_id, other_source, other_question = known.rows[index]
    return SharedRow(kind, sample.id, other_id, other_source, question == other_question)


def _copies(image_print: ImageFingerprint, known: Known) -> set[int]:
    """Rows with an image that is a copy in another size or encoding."""
    if not len(known.grey):
        return set()
    near = np.flatnonzero(known.grey @ image_print.grey >= NEAR)
    copies = set()
    for at in near:
        index, image = known.images[at]
        if float(fingerprint(image).colour @ image_print.colour) >= SURE:
            copies.add(index)
    return copies


def _normalised(image: Image.Image) -> np.ndarray:
    """Levels as a vector of mean 0 and length 1; zeros for a flat image."""
    levels = np.asarray(image, dtype=np.float32).reshape(-1)
    centred = levels - levels.mean()
    return centred / np.linalg.norm(centred) if levels.std() >= FLAT else np.zeros_like(centred)
