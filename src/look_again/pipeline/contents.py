"""Rows as the ledger keeps them: JSON that names its images.

An image in a file, in an archive or of a Tabletop scene is named where it lies; any other is written once under the
run's folder, called by the hash of its bytes. So a ledger of 40,000 rows stays small and rows stream from it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from look_again.data.image_files import ImageSource, LazyImage, describe, image_size, open_image
from look_again.data.sample import Sample
from look_again.data.zips import ZipMember
from look_again.images import ImageError
from look_again.tabletop.loader import SceneImage
from look_again.tabletop.world import Scene, Thing

IMAGES = "pictures"  # folder of images that have no file of their own
AS_THEY_ARE = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif"}  # what chat endpoints read


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


def storable(text: str) -> str:
    """The text with "?" for halves of surrogate pairs, which JSON can spell and no file or ledger can hold."""
    return text.encode("utf-8", "replace").decode()


def digest_of(text: str | bytes) -> str:
    """Hexadecimal, 32 digits."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()[:32]


def image_bytes(source: ImageSource) -> bytes:
    """The encoded file of an image. ImageError when it cannot be read or lies outside the bounds of `image_size`."""
    image_size(source)
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        source.convert("RGB").save(file, "PNG")
        return file.getvalue()
    try:
        return (
            source
            if isinstance(source, bytes)
            else source.read()
            if isinstance(source, LazyImage)
            else source.read_bytes()
        )
    except OSError as error:
        raise ImageError(f"{describe(source)} cannot be read: {error.strerror or error}") from error


def sendable(source: ImageSource, max_pixels: int | None = None) -> tuple[str, bytes]:
    """Media type and file of an image, as endpoints take it: PNG, JPEG and GIF as they are, others and those of more
    than `max_pixels` as an RGB PNG. ImageError as above."""
    data = image_bytes(source)
    kind = next((name for magic, name in AS_THEY_ARE.items() if data.startswith(magic)), None)
    width, height = image_size(data)
    if kind and (max_pixels is None or width * height <= max_pixels):
        return f"image/{kind}", data
    image = open_image(data)
    if max_pixels is not None and width * height > max_pixels:
        scale = (max_pixels / (width * height)) ** 0.5
        image = image.resize((max(1, int(width * scale)), max(1, int(height * scale))), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "PNG")
    return "image/png", file.getvalue()


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
