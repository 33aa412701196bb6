"""From a `Source` to rows: one table of loaders, the same for training, data making and evaluation.

Rows stream: files are read line by line or in small batches, and images only when opened. A bad record is handed
on as a value, so that `load_samples` alone decides whether it ends the stream or is counted and passed over.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from look_again.data.hub_datasets import read_hub
from look_again.data.readers import read_jsonl, read_parquet
from look_again.data.records import samples_from_records
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.data.sources.geometry3k import geometry3k_samples
from look_again.data.sources.hendrycks_math import math_samples
from look_again.data.sources.llava_cot import llava_cot_samples
from look_again.data.sources.mathvision import mathvision_samples
from look_again.data.sources.polymath import polymath_samples
from look_again.data.sources.scemqa import scemqa_samples
from look_again.data.splits import check_split
from look_again.tabletop.loader import tabletop_samples
from look_again.tabletop.oracle import LENGTHS
from look_again.tabletop.world import SPLITS as TABLETOP_SPLITS

WITHOUT_IMAGE = ("keep", "skip")

Found = Sample | SampleError


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where rows come from.

    loader: a name in `LOADERS`. path: a file, a folder, a hub name, or for tabletop "SEED", "SEED:ROWS" or
        "SEED:ROWS:LENGTH".
    split: the part to read. limit: rows at most, of those that are not skipped; None for all.
    sample_seed: draw these rows at random from all, by this seed, instead of taking the first (then all are read).
    without_image: "keep" or "skip" rows that have no image. name: the hub configuration, for math the subject.
    images: the folder that image paths start from and stay in; None for that of the rows.
    on_benchmark: "refuse" or "allow" a split that benchmarks evaluate on (`look_again.data.splits`).

    Raises ValueError for values out of range.
    """

    loader: str
    path: str
    split: str = "train"
    limit: int | None = None
    sample_seed: int | None = None
    without_image: str = "keep"
    name: str | None = None
    images: str | None = None
    on_benchmark: str = "refuse"

    def __post_init__(self) -> None:
        if self.loader not in LOADERS:
            raise ValueError(f"loader is {self.loader!r}: use one of {', '.join(LOADERS)}")
        for field in ("path", "split"):
            if not isinstance(value := getattr(self, field), str) or not value:
                raise ValueError(f"{field} is {value!r}: a text that is not empty is needed")
        if self.limit is not None and (type(self.limit) is not int or self.limit < 1):
            raise ValueError(f"limit is {self.limit!r}: use a whole number from 1, or None for all rows")
        if self.without_image not in WITHOUT_IMAGE:
            raise ValueError(f"without_image is {self.without_image!r}: use one of {', '.join(WITHOUT_IMAGE)}")
        if self.sample_seed is not None and (type(self.sample_seed) is not int or self.limit is None):
            raise ValueError(f"sample_seed is {self.sample_seed!r}: use a whole number, beside a limit")
        if self.name is not None and self.loader not in ("hub", "math"):
            raise ValueError(f"name is {self.name!r}: only the loaders hub and math have configurations")
        if self.images is not None and self.loader == "math":
            raise ValueError(f"images is {self.images!r}: the problems of math have no pictures")
        check_split(self.loader, self.split, self.on_benchmark)
        if self.loader == "tabletop":
            self._check_tabletop()

    def _check_tabletop(self) -> None:
        if not re.fullmatch(rf"[0-9]+(:[1-9][0-9]*(:({'|'.join(LENGTHS)}))?)?", self.path):
            raise ValueError(
                f"path is {self.path!r}: for tabletop use SEED, SEED:ROWS or SEED:ROWS:LENGTH, such as 7:1000:brief"
            )
        if self.split not in TABLETOP_SPLITS:
            raise ValueError(f"split is {self.split!r}: for tabletop use one of {', '.join(TABLETOP_SPLITS)}")
        if self.images is not None:
            raise ValueError(f"images is {self.images!r}: tabletop draws its own pictures")
        if self.sample_seed is not None:
            raise ValueError(f"sample_seed is {self.sample_seed}: tabletop's rows are random by the SEED of its path")

    @property
    def place(self) -> Path:
        """`path` as a file or folder, `~` expanded."""
        return Path(self.path).expanduser()

    def base(self, folder: Path | None) -> Path | None:
        """Where image paths start: `images`, or else `folder`."""
        return folder if self.images is None else Path(self.images).expanduser()


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
    rows: Iterable[Sample] = islice(kept, source.limit)
    if source.limit is not None and source.sample_seed is not None:
        rows = _sample(kept, source.limit, source.sample_seed)
    for row in rows:
        counts.rows += 1
        yield row


def _sample(rows: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """`count` rows drawn without replacement, in their order, holding no more than these (reservoir sampling)."""
    generator = random.Random(seed)
    drawn: list[tuple[int, Sample]] = []
    for index, row in enumerate(rows):
        if index < count:
            drawn.append((index, row))
        elif (place := generator.randrange(index + 1)) < count:
            drawn[place] = (index, row)
    return [row for _, row in sorted(drawn, key=lambda pair: pair[0])]


def _kept(source: Source, on_skip: Callable[[BadSample], object] | None, counts: Counts) -> Iterator[Sample]:
    seen: set[str] = set()
    for found in LOADERS[source.loader](source):
        if isinstance(found, Sample) and found.id in seen:
            found = SampleError(found.id, f"this id occurs twice in {source.path}: give every row its own, or none")
        if isinstance(found, SampleError):
            if on_skip is None:
                raise found
            counts.skipped += 1
            on_skip(BadSample(found.row_id or "", found.reason))
            continue
        seen.add(found.id)
        counts.without_image += not found.images
        if found.images or source.without_image == "keep":
            yield found


def _jsonl(source: Source) -> Iterator[Found]:
    path = source.place
    base = source.base(path.parent)
    return samples_from_records(read_jsonl(path), source=_label(path), split=source.split, base=base)


def _parquet(source: Source) -> Iterator[Found]:
    path = source.place
    base = source.base(path.parent)
    return samples_from_records(read_parquet(path), source=_label(path), split=source.split, base=base)


def _label(path: Path) -> str:
    """What rows of a file say they come from: `data/train` for `data/train.jsonl`."""
    return f"{path.absolute().parent.name}/{path.stem}"


def _folder(source: Source) -> Iterator[Found]:
    folder = source.place
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: give one, or use the loader jsonl, parquet or hub")
    split = source.split
    names = (f"{split}.jsonl", "rows.jsonl", f"{split}/metadata.jsonl", "metadata.jsonl")
    label = folder.absolute().name
    for path in (folder / name for name in names):
        if path.is_file():
            base = source.base(path.parent)
            return samples_from_records(read_jsonl(path), source=label, split=split, base=base)
    if tables := _tables(folder, split):
        records = chain.from_iterable(map(read_parquet, tables))
        return samples_from_records(records, source=label, split=split, base=source.base(folder))
    raise ValueError(
        f"{folder} has no rows of {split}: looked for {', '.join(names)}, {split}*.parquet, data/{split}*.parquet"
    )


def _tables(folder: Path, split: str) -> list[Path]:
    """The Parquet files of a split; all of them when no name tells splits apart."""
    files = sorted([*folder.glob("*.parquet"), *folder.glob("data/*.parquet")])
    named = [path for path in files if re.fullmatch(rf"{re.escape(split)}([-_.].*)?", path.stem)]
    told_apart = any(re.match(r"(train|valid|val|dev|test)", path.stem) for path in files)
    return named if named or told_apart else files


def _hub(source: Source) -> Iterator[Found]:
    local = source.place.is_dir()
    records = read_hub(str(source.place) if local else source.path, source.split, source.name)
    base = source.base(source.place if local else None)
    label = source.place.absolute().name if local else source.path
    return samples_from_records(records, source=label, split=source.split, base=base)


def _llava_cot(source: Source) -> Iterator[Found]:
    return llava_cot_samples(source.path, source.split, images=source.base(None))


def _tabletop(source: Source) -> Iterator[Found]:
    seed, rows, length = (*source.path.split(":"), None, None)[:3]
    return tabletop_samples(source.split, int(seed or 0), range(int(rows)) if rows else count(), length)


Loader = Callable[[Source], Iterator[Found]]

LOADERS: dict[str, Loader] = {
    "jsonl": _jsonl,
    "parquet": _parquet,
    "folder": _folder,
    "hub": _hub,
    "llava-cot": _llava_cot,
    "math": math_samples,
    "mathvision": mathvision_samples,
    "polymath": polymath_samples,
    "scemqa": scemqa_samples,
    "geometry3k": geometry3k_samples,
    "tabletop": _tabletop,
}
