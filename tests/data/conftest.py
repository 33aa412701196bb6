"""What the data tests share: encoded pictures, files of JSON lines, and a response in the grammar."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """A picture of (width, height) as a file's bytes; `orientation` goes into its EXIF."""

    def encode(width: int = 40, height: int = 20, format: str = "PNG", orientation: int | None = None) -> bytes:
        options: dict[str, Any] = {}
        if orientation is not None:
            options["exif"] = Image.Exif()
            options["exif"][0x0112] = orientation
        file = io.BytesIO()
        Image.effect_noise((width, height), 50).convert("RGB").save(file, format, **options)
        return file.getvalue()

    return encode


@pytest.fixture
def write_lines() -> Callable[..., Path]:
    """Write records as JSON lines; a str is written as it is."""

    def write(path: Path, *records: Any) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def response() -> str:
    return (
        "<SUMMARY>s</SUMMARY><CAPTION>c</CAPTION><REASONING>r</REASONING>"
        "<REFLECTION></REFLECTION><CONCLUSION>4</CONCLUSION>"
    )
