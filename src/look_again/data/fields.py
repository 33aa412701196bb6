"""Single fields of a record, checked and turned into what a `Sample` holds.

The paper has no word on data formats. Every complaint names the row, the field and the remedy.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from string import ascii_uppercase
from urllib.parse import unquote

import numpy as np
from PIL import Image

from look_again.data.image_files import ImageSource, LazyImage
from look_again.data.sample import SampleError
from look_again.images import ImageError, decode_base64, is_data_url, split_data_url

_URL = re.compile(r"\s*[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_FILE_URL = re.compile(r"\s*file://(localhost)?(?=/)", re.IGNORECASE)
MAX_HEAD = 400  # characters of a data URL before its bytes
_LETTER = re.compile(r"\s*\(?([A-Z])[.):]\s+")


def short(value: object) -> str:
    """A value for an error message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits, lists nested as deep
        text = type(value).__name__
    return text if len(text) <= 80 else f"{text[:77]}..."


def plain(value: object) -> object:
    """The value without numpy: its scalars as Python's, rows of them as lists."""
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) and value.ndim == 1 else value


def number_text(value: object, row_id: str, field: str) -> str | None:
    """A number written out, None for what is none. SampleError for one that is not finite: tables hold it for nothing.

    Whole numbers, decimals and floats count; truth values do not.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    if not isinstance(value, int) and not math.isfinite(value):
        raise SampleError(row_id, f"{field} is {short(value)}: a text or a finite number is needed, or leave it out")
    try:
        return str(value)
    except ValueError as error:  # Python writes no number of thousands of digits
        raise SampleError(row_id, f"{field} is a number that is too long to write: {error}") from error


def check_text(value: object, row_id: str, field: str) -> str:
    """The value itself; SampleError unless it is a text that can be written as UTF-8."""
    if not isinstance(value, str):
        raise SampleError(row_id, f"{field} is {short(value)}: a text is needed")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise SampleError(
            row_id, f"{field} is not valid Unicode ({error.reason}): remove the broken characters"
        ) from error
    return value


def reference_text(value: object, has_options: bool, row_id: str, field: str) -> str:
    """An answer as text; a number is written out, except beside options, where it might be an index or a value."""
    number = number_text(value, row_id, field)
    if number is None:
        if not isinstance(value, str):
            raise SampleError(row_id, f"{field} is {short(value)}: a text or a number is needed")
        return check_text(value, row_id, field)
    if has_options:
        raise SampleError(
            row_id, f"{field} is the number {number} beside options: write the letter or the option's text"
        )
    return number


def option_texts(value: object, row_id: str) -> tuple[str, ...]:
    """Options without letters: "A. red", "B. blue" or "(A) red", "(B) blue" lose theirs if all are in order."""
    if value is None:
        return ()
    if not isinstance(value, list | tuple):
        raise SampleError(row_id, f"options is {short(value)}: a list of texts is needed")
    options = [_option_text(plain(option), row_id, f"options[{i}]") for i, option in enumerate(value)]
    letters = [match[1] if (match := _LETTER.match(option)) else "" for option in options]
    if "".join(letters) == ascii_uppercase[: len(options)]:
        options = [_LETTER.sub("", option, count=1) for option in options]
    return tuple(options)


def _option_text(value: object, row_id: str, field: str) -> str:
    number = number_text(value, row_id, field)
    return check_text(value, row_id, field) if number is None else number


def silent_spans(value: object, row_id: str) -> tuple[tuple[int, int], ...]:
    """(start, stop) pairs; whether they fit the response is the row's to judge."""
    spans = value if value is not None else ()
    if not isinstance(spans, list | tuple):
        raise SampleError(row_id, f"silent is {short(value)}: a list of [start, stop] is needed")
    for span in spans:
        if not (isinstance(span, list | tuple) and len(span) == 2 and all(type(at) is int for at in span)):
            raise SampleError(row_id, f"silent has {short(span)}: two whole numbers, start and stop, are needed")
    return tuple((start, stop) for start, stop in spans)


def parse_image(value: object, row_id: str, field: str, base: Path | None) -> ImageSource:
    """The image that a value stands for: a path text, a data URL, bytes, {"bytes", "path"} or an image object.

    A `Path` is taken as it is: only code makes one, a file cannot.
    """
    if isinstance(value, Path | bytes | Image.Image | LazyImage):
        return value
    if isinstance(value, bytearray | memoryview):
        return bytes(value)
    if isinstance(value, Mapping) and value.get("bytes") is not None:
        return parse_image(value["bytes"], row_id, field, base)
    if isinstance(value, Mapping) and value.get("path") is not None:
        return parse_image(value["path"], row_id, field, base)
    if not isinstance(value, str) or not value:
        raise SampleError(row_id, f"{field} is {short(value)}: a path, bytes or a picture is needed")
    if is_data_url(value) and ";base64," in value[:MAX_HEAD].lower():
        return _decoded(value, row_id, field)
    if local := _FILE_URL.match(value):
        return path_inside(unquote(value[local.end() :]), row_id, field, base)
    if _URL.match(value):
        raise SampleError(row_id, f"{field} is {short(value)}; nothing is fetched: download it and give its path")
    return path_inside(value, row_id, field, base)


def path_inside(name: str, row_id: str, field: str, base: Path | None) -> Path:
    """`name` as an absolute path; SampleError unless it stays inside `base`. Whether it exists is not asked."""
    if base is None:
        raise SampleError(
            row_id, f"{field} is the path {short(name)} and these rows have no folder: name one as images="
        )
    root, path = os.path.abspath(base), os.path.abspath(os.path.join(base, name))
    if not Path(path).is_relative_to(root):
        advice = "move the pictures there or name their folder as images="
        raise SampleError(row_id, f"{field} is {short(name)}, which is outside {root}: {advice}")
    return Path(path)


def _decoded(url: str, row_id: str, field: str) -> bytes:
    try:
        return decode_base64(split_data_url(url))
    except ImageError as error:
        raise SampleError(row_id, f"{field} is a data URL that is not base64 ({error}): encode it again") from error
