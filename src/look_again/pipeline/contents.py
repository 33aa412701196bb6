"""Rows as the ledger keeps them: JSON that names its images.

An image in a file or in an archive is named where it lies, a drawn one by what it is drawn from; any other is written
once under the run's folder, called by the hash of its bytes. So a ledger of 40,000 rows stays small and streams.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from look_again.data.encoded_images import image_bytes
from look_again.data.image_files import ImageSource, LazyImage, restore_image
from look_again.data.sample import Sample
from look_again.text.unicode import storable

IMAGES = "pictures"  # folder of images that have no file of their own


def store_sample(sample: Sample, folder: Path) -> dict[str, Any]:
    """A row as JSON; images without a place of their own are written under `folder`."""
    kept = {name: value for name, value in vars(sample).items() if name != "images" and value not in (None, ())}
    return {**kept, "images": [_named(image, folder) for image in sample.images]}


def restore_sample(content: dict[str, Any], folder: Path) -> Sample:
    """The row again."""
    fields = {**content, "images": tuple(_found(name, folder) for name in content["images"])}
    fields["options"] = tuple(content.get("options", ()))
    fields["silent"] = tuple((start, stop) for start, stop in content.get("silent", ()))
    return Sample(**fields)


def as_text(value: Any) -> str:
    """JSON that is the same for equal values."""
    return storable(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def compute_digest(text: str | bytes) -> str:
    """Hexadecimal, 32 digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:32]


def _named(image: ImageSource, folder: Path) -> dict[str, Any]:
    if isinstance(image, LazyImage) and (stored := image.stored()) is not None:
        return stored
    if isinstance(image, Path):
        return {"path": str(image.absolute())}
    data = image_bytes(image)
    name = compute_digest(data)
    write_once(folder / IMAGES / name, data)
    return {"kept": name}


def _found(name: dict[str, Any], folder: Path) -> ImageSource:
    if (lazy := restore_image(name)) is not None:
        return lazy
    return Path(name["path"]) if "path" in name else folder / IMAGES / name["kept"]


def write_once(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all; one that is there stays."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
