"""The images that CHAIR describes: COCO 2014's annotation files, or a table of images with their objects.

The paper takes 5,000 images of train2014 and does not say which. Here the images of a split stand in one fixed order (a
hash of seed and id), of which the first 5,000 are taken, or `limit`: the 500 of `limit=500` are among them everywhere,
and one whose image is missing is a bad row and not replaced. The hub's table is that of lmms-eval, from val2014.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from look_again.data.fields import short
from look_again.data.image_files import ImageSource
from look_again.data.sample import BadSample, SampleError
from look_again.evaluation.benchmark import Item, Place
from look_again.evaluation.benchmarks.chair_words import read_caption, vocabulary
from look_again.evaluation.benchmarks.image_folders import image_folders, image_in, record_image
from look_again.evaluation.benchmarks.layouts import Record, check_split, items_of, local_path, read_tables, row_id

HUB = "tsunghanwu/mscoco_chair"
SPLITS = ("val2014", "train2014")
PROMPT = "Please describe this image in detail."
IMAGES = 5_000  # as many as the paper scores
SEED = 2014

_COLUMNS = ("question_id", "image", "gt_object")


@dataclass(frozen=True)
class Annotations:
    """Of one split. images: COCO's records of them. instances: id -> classes. captions: id -> reference captions."""

    images: Sequence[Record]
    instances: Mapping[int, Collection[str]]
    captions: Mapping[int, Collection[str]]


def load(place: Place) -> Iterator[Item | BadSample]:
    """Items of COCO 2014 in its own layout, or of a table with the columns question_id, image and gt_object.

    A folder holds annotations/instances_<split>.json and captions_<split>.json, and the images in <split>/, unless
    `place.images` does. ValueError for another layout, damaged annotations, and train2014 from a table.
    """
    check_split(place, "CHAIR", SPLITS)
    path = local_path(place)
    folder = None if path is None else _annotation_folder(path, place.split)
    if path is not None and folder is not None:
        return _coco_items(place, path, folder)
    return _table_items(place)


def read_annotations(folder: Path, split: str) -> Annotations:
    """The two annotation files of a split. ValueError when one cannot be read or is not COCO's."""
    instances, captions = (folder / f"{kind}_{split}.json" for kind in ("instances", "captions"))
    objects: dict[int, set[str]] = defaultdict(set)
    said: dict[int, list[str]] = defaultdict(list)
    try:
        found = _read_json(instances)
        images = [{"id": image["id"], "file_name": str(image["file_name"])} for image in found["images"]]
        classes = {category["id"]: category["name"] for category in found["categories"]}
        for annotation in found["annotations"]:
            objects[annotation["image_id"]].add(classes[annotation["category_id"]])
        for annotation in _read_json(captions)["annotations"]:
            said[annotation["image_id"]].append(str(annotation["caption"]))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{instances} or {captions.name} is not COCO's ({type(error).__name__}: {error}): looked for images "
            "(id, file_name), categories (id, name) and annotations (image_id, category_id; in the other, caption)"
        ) from error
    if unknown := set(classes.values()) - _classes():
        raise ValueError(f"{instances} has the category {min(unknown)!r}, which is none of COCO's 80 classes")
    return Annotations(images, objects, said)


def ordered(images: Iterable[Record]) -> list[Record]:
    """The images in the one fixed order; the place of an image does not depend on which others there are."""
    return sorted(images, key=lambda image: hashlib.sha256(f"{SEED} {image['id']}".encode()).digest())


def true_objects(instances: Collection[str], captions: Collection[str]) -> list[str]:
    """The classes in an image: annotated, or mentioned in a reference caption; sorted."""
    return sorted(set(instances).union(*(read_caption(caption).objects for caption in captions)))


def size_group(truth: Sequence[str]) -> str:
    """How many classes an image holds, in the three groups that results are told apart by."""
    return "0-1" if len(truth) < 2 else "2-3" if len(truth) < 4 else "4 or more"


def _classes() -> set[str]:
    return set(vocabulary().class_of.values())


def _annotation_folder(path: Path, split: str) -> Path | None:
    for folder in (path / "annotations", path):
        if all((folder / f"{kind}_{split}.json").is_file() for kind in ("instances", "captions")):
            return folder
    return None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes(), object_hook=_without_outline)
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from error


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Outlines are nearly all of the 330 MB of instances_train2014.json, and are not needed."""
    record.pop("segmentation", None)
    return record


def _coco_items(place: Place, path: Path, folder: Path) -> Iterator[Item | BadSample]:
    at = folder.parent if folder.name == "annotations" else path
    folders = image_folders(place, at, place.split, f"images/{place.split}", "images")
    known = read_annotations(folder, place.split)
    chosen = ordered(known.images)[: place.limit or IMAGES]
    yield from items_of(chosen, partial(_coco_item, known=known, folders=folders))


def _coco_item(image: Record, index: int, *, known: Annotations, folders: Sequence[Path]) -> Item:
    name = Path(image["file_name"]).stem
    picture = image_in(folders, image["file_name"], name)
    truth = true_objects(known.instances.get(image["id"], ()), known.captions.get(image["id"], ()))
    return _item(name, picture, truth, image["id"])


def _table_items(place: Place) -> Iterator[Item | BadSample]:
    looked_for = f"nor annotations/instances_{place.split}.json beside captions_{place.split}.json"
    if place.split != SPLITS[0]:
        raise ValueError(f"{place.path} has no {place.split}: a table is of {SPLITS[0]}, {looked_for}")
    try:
        records = read_tables(replace(place, split="test"), _COLUMNS)
    except ValueError as error:
        raise ValueError(f"{error}; {looked_for}") from error
    return items_of(records, _table_item, place.limit)


def _table_item(record: Record, index: int) -> Item:
    name = row_id(record, "question_id", index)
    truth, classes = record["gt_object"], _classes()
    if not isinstance(truth, list) or not all(isinstance(one, str) and one in classes for one in truth):
        raise SampleError(name, f"gt_object is {short(truth)}: a list of COCO's class names is needed")
    return _item(name, record_image(record, name), sorted(set(truth)), name)


def _item(name: str, picture: ImageSource, truth: list[str], image_id: int | str) -> Item:
    facts = {"image_id": image_id, "objects": size_group(truth)}
    return Item(id=name, images=(picture,), prompt=PROMPT, reference=truth, facts=facts)
