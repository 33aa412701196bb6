"""A build's folder, which is the old one or the new one and never half of each.

Files are written beside their places and moved when all of them are whole; a disk that is full or an error in between
leaves what was there. Images are called by the hash of their bytes, so old and new rows can share one.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

from look_again.pipeline.contents import compute_digest

SUFFIX = ".part"
_IMAGE = re.compile(r"[0-9a-f]{32}\.(png|jpg)")


class BuildFolder:
    """A folder that is being built: as a context, its files take their places at the end unless an error came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._drafts: dict[Path, Path] = {}
        self._images: set[str] = set()
        self._new_images: list[Path] = []

    def __enter__(self) -> Self:
        (self.path / "images").mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._take_over()
        else:
            self._discard()

    def draft(self, name: str) -> Path:
        """Where to write the file `name` until everything is whole."""
        final = self.path / name
        self._drafts[final] = final.with_name(f"{final.name}{SUFFIX}")
        return self._drafts[final]

    def write_text(self, name: str, text: str) -> None:
        self.draft(name).write_text(text, encoding="utf-8")

    def write_image(self, media_type: str, data: bytes) -> str:
        """The name of an image with these bytes, under the folder."""
        name = f"{compute_digest(data)}.{media_type.split('/')[1].replace('jpeg', 'jpg')}"
        path = self.path / "images" / name
        if not path.is_file():
            draft = path.with_name(f"{name}{SUFFIX}")
            self._new_images.append(draft)
            draft.write_bytes(data)
            draft.replace(path)
            self._new_images[-1] = path
        self._images.add(name)
        return f"images/{name}"

    def _take_over(self) -> None:
        for final, draft in self._drafts.items():
            draft.replace(final)
        if (table := self.path / "train.parquet") not in self._drafts:
            table.unlink(missing_ok=True)
        for path in (self.path / "images").iterdir():
            if _IMAGE.fullmatch(path.name) and path.name not in self._images:
                path.unlink()  # of an earlier build, whose rows are gone

    def _discard(self) -> None:
        for path in (*self._drafts.values(), *self._new_images):
            path.unlink(missing_ok=True)
