"""Rows of one's own: a folder with images, questions and given beginnings of answers, for any checkpoint.

`rows.jsonl` has one row per line: {"id", "image" (a path in the folder), "question", "answer", "beginnings":
{"100": "...<REFLECTION>", "800": "..."}}. A beginning is what the response starts with: work of about that
many tokens, up to and including `<REFLECTION>`. Scored are the answers. For the study of swap a row has
"answer_of_text" too: the answer that follows from what its beginnings describe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from look_again.data.fields import short
from look_again.data.readers import read_numbered
from look_again.data.sample import SampleError
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation
from look_again.evaluation.subjects import PREFIX_FACT
from look_again.tabletop.long_world.long_benchmark import DESCRIBED
from look_again.tabletop.long_world.long_studies import score_answers, score_followed
from look_again.text.grammar import open_tag

KEYS = ("id", "image", "question", "answer", "beginnings")
NUMBERED = ("id", "answer", DESCRIBED)  # keys whose value may be a number
UNWRITABLE = re.compile("[\0\ud800-\udfff]")  # no character of a file's name, or half of one
LENGTH = re.compile(r"[1-9][0-9]*")


def folder_benchmark(length: int, first: int = 0, *, swapped: bool = False) -> Benchmark:
    """The rows of a folder at one length of work, from number `first` on. swapped: for the study of swap."""
    return Benchmark(
        name=f"rows-{length}",
        hub="",
        splits=("rows",),
        load=partial(_load, length=length, first=first, keys=(*KEYS, DESCRIBED) if swapped else KEYS),
        score=score_followed if swapped else score_answers,
        primary="picture" if swapped else "accuracy",
        paired="strict",
    )


def read_rows(folder: Path, keys: Sequence[str] = KEYS, length: int | None = None) -> list[Mapping[str, Any]]:
    """The rows of a folder, all of which have a beginning of `length` where one is given.

    ValueError, naming file and line, for what is no row: no JSON object, one without the keys, values of another type,
    an id of another row, an image that is not a file in the folder, a beginning that does not end in `<REFLECTION>`.
    """
    path, lines = folder / "rows.jsonl", dict[str, int]()
    rows: list[Mapping[str, Any]] = []
    for number, row in read_numbered(path):
        if isinstance(row, SampleError):
            raise ValueError(f"{path}, line {number}: {row.reason}")
        if fault := _fault(row, keys, length) or _image_fault(folder, row["image"]):
            raise ValueError(f"{path}, line {number}: {fault}")
        if (first := lines.setdefault(str(row["id"]), number)) != number:
            raise ValueError(f"{path}, line {number}: the id {row['id']!r} is that of line {first}")
        rows.append(row)
    return rows


def _fault(row: Mapping[str, Any], keys: Sequence[str], length: int | None) -> str | None:
    """What is wrong with a row's values."""
    if missing := [key for key in keys if key not in row]:
        return f"no {missing[0]!r}; a row has {', '.join(keys)}"
    for key in keys:
        if key != "beginnings" and not _is_text(row[key], number=key in NUMBERED):
            return f"{key!r} is {short(row[key])}: a text{' or a number' if key in NUMBERED else ''} is needed"
    beginnings = row["beginnings"]
    if not isinstance(beginnings, Mapping) or not all(map(LENGTH.fullmatch, beginnings)):
        return f'\'beginnings\' is {short(beginnings)}: texts by their lengths are needed, such as {{"100": "..."}}'
    for name, text in beginnings.items():
        if not _is_text(text) or not text.endswith(open_tag("REFLECTION")):
            return f"the beginning of {name} tokens does not end in <REFLECTION>"
    if length is not None and str(length) not in beginnings:
        return f"no beginning of {length} tokens; every row has every length that is asked for"
    return None


def _is_text(value: object, *, number: bool = False) -> bool:
    """Whether it is a text that says something and can be written, or where those are taken a number."""
    if isinstance(value, str):
        return bool(value.strip()) and not UNWRITABLE.search(value)
    return number and not isinstance(value, bool) and (isinstance(value, int) or _is_finite(value))


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _image_fault(folder: Path, name: str) -> str | None:
    """What is wrong with an image's place."""
    path = folder / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not path.resolve().is_relative_to(folder.resolve()):
        return f"the image {short(name)} is outside the folder: move it there"
    return None if path.is_file() else f"there is no file {short(name)} in the folder"


def _load(location: DataLocation, length: int, first: int, keys: Sequence[str]) -> Iterator[BenchmarkItem]:
    folder = Path(location.path)
    rows = read_rows(folder, keys, length)
    for row in rows[first : None if location.limit is None else first + location.limit]:
        yield BenchmarkItem(
            id=str(row["id"]),
            images=(folder / row["image"],),
            prompt=row["question"],
            reference=str(row["answer"]),
            facts={PREFIX_FACT: row["beginnings"][str(length)]}
            | ({DESCRIBED: row[DESCRIBED]} if DESCRIBED in keys else {}),
        )
