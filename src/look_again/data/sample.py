"""The sample: a question about images, its answer, and a response to learn from.

Supervised training, reinforcement learning, the data engine and evaluation all read this type, so that a set of samples
means the same to each. The paper names its datasets and no format; this one is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from string import ascii_uppercase

from look_again.data.image_files import ImageSource, LazyImage, image_size, open_image

__all__ = ["BadSample", "ImageSource", "LazyImage", "Sample", "SampleError", "image_size", "open_image"]


class SampleError(ValueError):
    """A sample that cannot be used, or several (`row_id` None, and `reason` lists them)."""

    def __init__(self, row_id: str | None, reason: str) -> None:
        super().__init__(row_id, reason)  # both, so that the error pickles on its way out of a worker process
        self.row_id = row_id
        self.reason = reason

    def __str__(self) -> str:
        return self.reason if self.row_id is None else f"row {self.row_id!r}: {self.reason}"


@dataclass(frozen=True)
class BadSample:
    """A sample that was left out, and why."""

    id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A question and what is known of it.

    id: unique within its source. images: shown before the question, in order. options: texts without letters.
    reference: the answer to score against. response: a full response in the tag grammar. source: the dataset.
    silent: (start, stop) characters of `response` that are read but carry no loss.

    Raises SampleError for more than 26 options and for silent spans that are empty or outside the response.
    """

    id: str
    images: tuple[ImageSource, ...] = ()
    question: str
    options: tuple[str, ...] = ()
    reference: str | None = None
    response: str | None = None
    source: str
    split: str = "train"
    silent: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if len(self.options) > len(ascii_uppercase):
            raise SampleError(self.id, f"options: {len(self.options)} of them; letters run out after 26, drop some")
        length = len(self.response or "")
        for start, stop in self.silent:
            if not 0 <= start < stop <= length:
                raise SampleError(
                    self.id, f"silent: span ({start}, {stop}) is not within the response's {length} characters"
                )

    @property
    def prompt(self) -> str:
        """The question; with options, each on a line of its own as "A. text"."""
        lettered = (f"{letter}. {option}" for letter, option in zip(ascii_uppercase, self.options, strict=False))
        return "\n".join((self.question, *lettered))
