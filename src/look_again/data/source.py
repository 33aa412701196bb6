"""Where samples come from: a loader's name and what it is to read, checked before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from look_again.data.splits import check_split
from look_again.registry import resolve

WITHOUT_IMAGE = ("keep", "skip")

LOADERS = {
    "jsonl": "look_again.data.sources.record_files:jsonl_samples",
    "parquet": "look_again.data.sources.record_files:parquet_samples",
    "folder": "look_again.data.sources.record_files:folder_samples",
    "hub": "look_again.data.sources.record_files:hub_samples",
    "llava-cot": "look_again.data.sources.llava_cot:llava_cot_samples",
    "math": "look_again.data.sources.hendrycks_math:math_samples",
    "mathvision": "look_again.data.sources.mathvision:mathvision_samples",
    "polymath": "look_again.data.sources.polymath:polymath_samples",
    "scemqa": "look_again.data.sources.scemqa:scemqa_samples",
    "geometry3k": "look_again.data.sources.geometry3k:geometry3k_samples",
    "tabletop": "look_again.tabletop.loader:tabletop_source",
}
"""Functions from a `Source` to its samples, with bad records as SampleErrors."""

CHECKS = {"tabletop": "look_again.tabletop.loader:check_tabletop"}
"""Functions that raise ValueError for a `Source` that their loader cannot read."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source of samples.

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
        if self.loader in CHECKS:
            resolve(CHECKS[self.loader])(self)

    @property
    def local_path(self) -> Path:
        """`path` as a file or folder, `~` expanded."""
        return Path(self.path).expanduser()

    def base(self, folder: Path | None) -> Path | None:
        """The folder that image paths start from: `images`, or else `folder`."""
        return folder if self.images is None else Path(self.images).expanduser()
