"""Loading of samples from a `Source`, the same for training, data making and evaluation.

Samples stream: files are read line by line or in small batches, and images only when opened. A bad record is handed
on as a value, so that `load_samples` alone decides whether it ends the stream or is counted and passed over.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from look_again.data.sample import BadSample, Sample, SampleError
from look_again.data.source import LOADERS, Source
from look_again.registry import resolve


@dataclass
class Counts:
    """What a stream has met so far.

    rows: handed out. without_image: rows without an image, handed out or not as the source says.
    skipped: bad and repeated records passed over.
    """

    rows: int = 0
    without_image: int = 0
    skipped: int = 0


def load_samples(
    source: Source, *, on_skip: Callable[[BadSample], object] | None = None, counts: Counts | None = None
) -> Iterator[Sample]:
    """The source's rows, lazily; `counts` is brought up to date with each.

    A record that makes no row, or repeats an id, raises SampleError; with `on_skip` it is handed to that instead and
    passed over. ValueError for a source that cannot be read, MissingExtraError without the packages it needs.
    """
    counts = Counts() if counts is None else counts
    kept = _kept(source, on_skip, counts)
    samples: Iterable[Sample] = islice(kept, source.limit)
    if source.limit is not None and source.sample_seed is not None:
        samples = _sample(kept, source.limit, source.sample_seed)
    for sample in samples:
        counts.rows += 1
        yield sample


def _sample(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """`count` rows drawn without replacement, in their order, holding no more than these (reservoir sampling)."""
    generator = random.Random(seed)
    drawn: list[tuple[int, Sample]] = []
    for index, sample in enumerate(samples):
        if index < count:
            drawn.append((index, sample))
        elif (position := generator.randrange(index + 1)) < count:
            drawn[position] = (index, sample)
    return [sample for _, sample in sorted(drawn, key=lambda pair: pair[0])]


def _kept(source: Source, on_skip: Callable[[BadSample], object] | None, counts: Counts) -> Iterator[Sample]:
    seen: set[str] = set()
    for loaded in resolve(LOADERS[source.loader])(source):
        if isinstance(loaded, Sample) and loaded.id in seen:
            loaded = SampleError(loaded.id, f"this id occurs twice in {source.path}: give every row its own, or none")
        if isinstance(loaded, SampleError):
            if on_skip is None:
                raise loaded
            counts.skipped += 1
            on_skip(BadSample(loaded.row_id or "", loaded.reason))
            continue
        seen.add(loaded.id)
        counts.without_image += not loaded.images
        if loaded.images or source.without_image == "keep":
            yield loaded
