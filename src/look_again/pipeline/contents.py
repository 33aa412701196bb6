"""Rows as the ledger keeps them: JSON that names its images.

An image in a file, in an archive or of a Tabletop scene is named where it lies; any other is written once under the
run's folder, called by the hash of its bytes. So a ledger of 40,000 rows stays small and rows stream from it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from look_again.data.encoded_images import image_bytes
from look_again.data.image_files import ImageSource
from look_again.data.sample import Sample
from look_again.data.zips import ZipMember
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.world import Scene, Thing
from look_again.text.unicode import storable

IMAGES = "pictures"  # folder of images that have no file of their own


def content_of(row: Sample, folder: Path) -> dict[str, Any]:
    """A row as JSON; images without a place of their own are written under `folder`."""
    kept = {name: value for name, value in vars(row).items() if name != "images" and value not in (None, ())}
    return {**kept, "images": [_named(image, folder) for image in row.images]}


def row_of(content: dict[str, Any], folder: Path) -> Sample:
    """The row again."""
    fields = {**content, "images": tuple(_found(name, folder) for name in content["images"])}
    fields["options"] = tuple(content.get("options", ()))
    fields["silent"] = tuple((start, stop) for start, stop in content.get("silent", ()))
    return Sample(**fields)


def as_text(value: Any) -> str:
    """JSON that is the same for equal values."""
    return storable(json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")))


def digest_of(text: str | bytes) -> str:
    """Hexadecimal, 32 digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:32]


def _named(image: ImageSource, folder: Path) -> dict[str, Any]:
    if isinstance(image, SceneImage):
        return {"scene": asdict(image.scene), "called": image.row_id}
    if isinstance(image, ZipMember):
        return {"archive": str(image.archive), "member": image.name}
    if isinstance(image, Path):
        return {"path": str(image.absolute())}
    data = image_bytes(image)
    name = digest_of(data)
    write_whole(folder / IMAGES / name, data)
    return {"kept": name}


def _found(name: dict[str, Any], folder: Path) -> ImageSource:
    if "scene" in name:
        things = tuple(Thing(**thing) for thing in name["scene"]["things"])
        return SceneImage(Scene(things, name["scene"]["noise_seed"]), name["called"])
    if "archive" in name:
        return ZipMember(Path(name["archive"]), name["member"])
    return Path(name["path"]) if "path" in name else folder / IMAGES / name["kept"]


def write_whole(path: Path, data: bytes) -> None:
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
