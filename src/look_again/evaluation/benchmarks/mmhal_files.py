"""MMHal-Bench's questions: `response_template.json` beside `images/`, as published, or a table of the same columns.

The paper names the benchmark alone. Its repository on the hub loads by a script, which `datasets` no longer runs, so
its files are fetched as they are.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from look_again.data.fields import short, text_of
from look_again.data.hub_datasets import folder_of
from look_again.data.image_files import ImageSource
from look_again.data.sample import BadSample, SampleError
from look_again.evaluation.benchmark import Item, Place
from look_again.evaluation.benchmarks.image_folders import image_folders, image_in, question_of, record_image
from look_again.evaluation.benchmarks.layouts import Record, check_split, items_of, local_path, read_tables

HUB = "Shengcao1006/MMHal-Bench"
SPLITS = ("test",)
TEMPLATE = "response_template.json"
QUESTION_TYPES = (  # in the order in which the file repeats them
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)

_COLUMNS = ("image", "image_content", "question", "gt_answer")


def load(place: Place) -> Iterator[Item | BadSample]:
    """The items of a response_template.json, a folder or hub repository with one, or a table with its columns.

    Images lie in `place.images`, or beside the file in images/, under the last part of `image_src`; in a table in the
    column image. ValueError for another layout.
    """
    check_split(place, "MMHal-Bench", SPLITS)
    path = local_path(place)
    if path is None:
        path = folder_of(place.path, [TEMPLATE, "images/*"], example=HUB)
    file = path / TEMPLATE if path.is_dir() else path
    if file.is_file() and file.suffix == ".json":
        folders = image_folders(place, file.parent, "images")
        make = partial(_item, image=partial(_file_image, folders=folders))
        return items_of(_file_records(file), make, place.limit)
    try:
        return items_of(read_tables(place, _COLUMNS), _item, place.limit)
    except ValueError as error:
        raise ValueError(f"{error}; nor is there {TEMPLATE}") from error


def _file_records(file: Path) -> Iterator[Record | SampleError]:
    """The records of the template. ValueError when it cannot be read or is no JSON list."""
    try:
        records = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{file} is a JSON {type(records).__name__}: looked for a list of questions")
    for index, record in enumerate(records):
        yield record if isinstance(record, dict) else SampleError(str(index), f"{short(record)} is no question")


def _file_image(record: Record, name: str, folders: list[Path]) -> ImageSource:
    source = question_of(record, "image_src", name)
    return image_in(folders, urlsplit(source).path.rpartition("/")[2] or source, name)


def _item(record: Record, index: int, image: Callable[[Record, str], ImageSource] = record_image) -> Item:
    name = str(index)
    contents = record.get("image_content")
    if not isinstance(contents, list):
        raise SampleError(name, f"image_content is {short(contents)}: a list of texts is needed")
    facts = {
        "question_type": _question_type(record.get("question_type"), index),
        "image_content": [text_of(text, name, "image_content") for text in contents],
    }
    return Item(
        id=name,
        prompt=question_of(record, "question", name),
        reference=question_of(record, "gt_answer", name),
        images=(image(record, name),),
        facts=facts,
    )


def _question_type(value: object, index: int) -> str:
    """As the record says; where it says nothing, by its place, as the official script counts."""
    if value is None:
        return QUESTION_TYPES[index % len(QUESTION_TYPES)]
    if value not in QUESTION_TYPES:
        raise SampleError(str(index), f"question_type is {short(value)}: use one of {', '.join(QUESTION_TYPES)}")
    return str(value)
