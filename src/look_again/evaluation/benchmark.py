"""What a benchmark is: items to ask, and a pure function from replies to scores.

The paper gives tables and no protocol. Here every benchmark has its official score and a strict one, which gives
nothing for a reply that cannot be read, and counts such replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from look_again.data.image_files import ImageSource
from look_again.data.sample import BadSample
from look_again.scoring.conclusion import without_reasoning

JSON = Any  # what json.dumps takes


@dataclass(frozen=True, kw_only=True)
class BenchmarkItem:
    """One question. id: unique within the run. prompt: all text the model is given, options included.

    images: shown before the prompt, in order. reference: what the scorer compares with, a JSON value. facts: JSON
    values that the scorer needs or results are grouped by, such as category, split, image id or options.
    """

    id: str
    images: tuple[ImageSource, ...] = ()
    prompt: str
    reference: JSON = None
    facts: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelReply:
    """What the model under test said. conclusion: its CONCLUSION; None where it wrote none, `text` is all there is."""

    text: str
    conclusion: str | None = None

    @property
    def final(self) -> str:
        """The CONCLUSION, or else all that a model without the tags says outside of `<think>…</think>`."""
        return without_reasoning(self.text) if self.conclusion is None else self.conclusion


@dataclass(frozen=True, kw_only=True)
class ItemScore:
    """Of one item. official, strict: points, mostly 0 or 1; None where the item was not asked, not judged, or has none.

    extracted: the answer as it was read, None if none was. unparsed: nothing could be read (strict counts it wrong).
    unjudged: what a judge said instead of a rating, or why it said nothing; None of an item that needs no rating more.
    facts: JSON values for the item's line in the results, such as mentioned objects or a judge's words.
    """

    official: float | None = None
    strict: float | None = None
    extracted: JSON = None
    unparsed: bool = False
    unjudged: str | None = None
    facts: Mapping[str, JSON] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Of a run. items: in the order of the items scored. metrics: name -> number, None where it is undefined.

    A metric with "strict" in its name gives nothing for an item that could not be asked; the others leave it out.
    subsets: group -> its metrics. notes: which normaliser, rule or judge was used, in words.
    """

    items: Sequence[ItemScore]
    metrics: Mapping[str, float | int | None]
    subsets: Mapping[str, Mapping[str, float | int | None]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class DataLocation:
    """Where a benchmark's files are. path: a local folder or file in the official layout, or a hub name.

    split: one of the benchmark's. images: a folder for images that are not beside the table. limit: first n items.
    """

    path: str
    split: str
    images: Path | None = None
    limit: int | None = None


Judge = Callable[[str], str]  # a prompt -> a reply; raises OSError or TimeoutError where no reply could be had
Load = Callable[
    [DataLocation], Iterator[BenchmarkItem | BadSample]
]  # ValueError, saying what it looked for, for an unknown layout
Score = Callable[[Sequence[BenchmarkItem], Sequence[ModelReply], Judge | None], Scores]


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One benchmark. hub: the name its files have on the hub, the default place. splits: known ones, default first.

    primary: the metric in `Scores.metrics` that tables show. paired: the field of `ItemScore` ("official" or "strict")
    that comparisons pair, or the name of a fact in `ItemScore.facts`. needs_judge: whether scoring takes a judge.
    max_new_tokens: a budget that a reasoning model's answer fits in.
    """

    name: str
    hub: str
    splits: tuple[str, ...]
    load: Load
    score: Score
    primary: str
    paired: str = "official"
    needs_judge: bool = False
    max_new_tokens: int = 2048


def share(part: float, whole: float) -> float | None:
    """part / whole; None where there is nothing to divide by."""
    return part / whole if whole else None
