"""CHAIR: which objects of a description are not in the image, and how many of those that are it finds.

CHAIR_i is the share of object mentions that are hallucinated, CHAIR_s the share of captions with at least one, recall
the share of true objects that are mentioned; all are sums over the set, as in Rohrbach et al. (EMNLP 2018) and later
copies. True objects are the annotated instances and whatever the reference captions mention.

The paper takes 5,000 images of train2014 and does not say which. Here the images of a split stand in one fixed order (a
hash of seed and id), of which the first 5,000 are taken, or `limit`: the 500 of `limit=500` are among them everywhere,
and an image whose file is missing is a bad row and not replaced. The hub's table is that of lmms-eval, from val2014.

The paper scores CONCLUSION alone and leaves open what happens without it, and longer texts hallucinate more; so every
number stands here twice, for the CONCLUSION (else the whole text) and, as `whole_…`, for the whole reply, each beside
its length. The official CHAIR_s counts an empty caption as free of hallucination, the strict one as a failure.
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
from look_again.evaluation.benchmark import (
    Benchmark,
    BenchmarkItem,
    DataLocation,
    ItemScore,
    Judge,
    ModelReply,
    Scores,
    share,
)
from look_again.evaluation.benchmarks.chair_words import NORMALISER, read_caption, vocabulary
from look_again.evaluation.files.image_folders import image_folders, image_in, record_image
from look_again.evaluation.files.layouts import Record, build_items, check_split, local_path, read_tables, row_id
from look_again.text.grammar import TAG_TOKENS, split_at_tags

HUB = "tsunghanwu/mscoco_chair"
SPLITS = ("val2014", "train2014")
PROMPT = "Please describe this image in detail."
IMAGES = 5_000  # as many as the paper scores
SEED = 2014

_COLUMNS = ("question_id", "image", "gt_object")

NOTES = {
    "normaliser": NORMALISER,
    "scored": "chair_i, chair_s, recall: the CONCLUSION, or all of an answer without one; whole_…: all of every answer",
    "truth": "annotated instances and objects mentioned in the reference captions",
    "strict": "strict_chair_s counts an empty caption as a failure; officially it is free of hallucination",
}
_BETWEEN_SECTIONS = "\n|\n"  # a mark that keeps the words of two sections apart


@dataclass(frozen=True)
class Annotations:
    """Of one split. images: COCO's records of them. instances: id -> classes. captions: id -> reference captions."""

    images: Sequence[Record]
    instances: Mapping[int, Collection[str]]
    captions: Mapping[int, Collection[str]]


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """Items of COCO 2014 in its own layout, or of a table with the columns question_id, image and gt_object.

    A folder holds annotations/instances_<split>.json and captions_<split>.json, and the images in <split>/, unless
    `location.images` does. ValueError for another layout, damaged annotations, and train2014 from a table.
    """
    check_split(location, "CHAIR", SPLITS)
    path = local_path(location)
    folder = None if path is None else _annotation_folder(path, location.split)
    if path is not None and folder is not None:
        return _coco_items(location, path, folder)
    return _table_items(location)


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


def _coco_items(location: DataLocation, path: Path, folder: Path) -> Iterator[BenchmarkItem | BadSample]:
    at = folder.parent if folder.name == "annotations" else path
    folders = image_folders(location, at, location.split, f"images/{location.split}", "images")
    known = read_annotations(folder, location.split)
    chosen = ordered(known.images)[: location.limit or IMAGES]
    yield from build_items(chosen, partial(_coco_item, known=known, folders=folders))


def _coco_item(image: Record, index: int, *, known: Annotations, folders: Sequence[Path]) -> BenchmarkItem:
    name = Path(image["file_name"]).stem
    image_file = image_in(folders, image["file_name"], name)
    truth = true_objects(known.instances.get(image["id"], ()), known.captions.get(image["id"], ()))
    return _item(name, image_file, truth, image["id"])


def _table_items(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    looked_for = f"nor annotations/instances_{location.split}.json beside captions_{location.split}.json"
    if location.split != SPLITS[0]:
        raise ValueError(f"{location.path} has no {location.split}: a table is of {SPLITS[0]}, {looked_for}")
    try:
        records = read_tables(replace(location, split="test"), _COLUMNS)
    except ValueError as error:
        raise ValueError(f"{error}; {looked_for}") from error
    return build_items(records, _table_item, location.limit)


def _table_item(record: Record, index: int) -> BenchmarkItem:
    name = row_id(record, "question_id", index)
    truth, classes = record["gt_object"], _classes()
    if not isinstance(truth, list) or not all(isinstance(one, str) and one in classes for one in truth):
        raise SampleError(name, f"gt_object is {short(truth)}: a list of COCO's class names is needed")
    return _item(name, record_image(record, name), sorted(set(truth)), name)


def _item(name: str, image_file: ImageSource, truth: list[str], image_id: int | str) -> BenchmarkItem:
    facts = {"image_id": image_id, "objects": size_group(truth)}
    return BenchmarkItem(id=name, images=(image_file,), prompt=PROMPT, reference=truth, facts=facts)


@dataclass(frozen=True)
class Judged:
    """One caption against its image. mentions, hallucinated: classes in order, with repeats. found, true: counts."""

    words: int
    mentions: tuple[str, ...]
    hallucinated: tuple[str, ...]
    found: int
    true: int

    def facts(self) -> dict[str, object]:
        return {
            "words": self.words,
            "mentions": list(self.mentions),
            "hallucinations": list(self.hallucinated),
            "hallucinated": int(bool(self.hallucinated)),
            "found": self.found,
            "true": self.true,
        }


def judge_caption(text: str, truth: Sequence[str]) -> Judged:
    """What `text` says, against the classes that are in the image; tags of the response format are not read."""
    if "<" in text:
        text = _BETWEEN_SECTIONS.join(part for part in split_at_tags(text) if part not in TAG_TOKENS)
    caption = read_caption(text)
    real = set(truth)
    hallucinated = tuple(name for name in caption.objects if name not in real)
    return Judged(caption.words, caption.objects, hallucinated, len(real.intersection(caption.objects)), len(real))


def summarise(captions: Sequence[Judged]) -> dict[str, float | int | None]:
    """Metrics of a set, shares from 0 to 1; None where nothing was mentioned, true, or said at all."""
    n = len(captions)
    empty = sum(not caption.words for caption in captions)
    wrong = sum(bool(caption.hallucinated) for caption in captions)
    return {
        "chair_s": share(wrong, n),
        "chair_i": share(sum(len(c.hallucinated) for c in captions), sum(len(c.mentions) for c in captions)),
        "recall": share(sum(c.found for c in captions), sum(c.true for c in captions)),
        "words": share(sum(c.words for c in captions), n),
        "strict_chair_s": share(wrong + empty, n),
        "empty": empty,
        "without_objects": sum(not c.mentions for c in captions) - empty,
    }


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """CHAIR of the replies; subsets by how many classes the image holds.

    An item's points are 1 for a caption without hallucination; `hallucinated` in its facts is the 0 or 1 of CHAIR_s.
    """
    finals = [judge_caption(r.final, item.reference) for item, r in zip(items, replies, strict=True)]
    wholes = [
        final if reply.text == reply.final else judge_caption(reply.text, item.reference)
        for item, reply, final in zip(items, replies, finals, strict=True)
    ]
    groups: dict[str, list[Judged]] = defaultdict(list)
    for item, final in zip(items, finals, strict=True):
        groups[f"objects/{size_group(item.reference)}"].append(final)
    metrics = summarise(finals) | {f"whole_{name}": value for name, value in summarise(wholes).items()}
    return Scores(
        items=[_item_score(final, whole) for final, whole in zip(finals, wholes, strict=True)],
        metrics=metrics | {"items": len(items), "without_conclusion": sum(r.conclusion is None for r in replies)},
        subsets={group: _with_count(captions) for group, captions in sorted(groups.items())},
        notes=NOTES,
    )


def _with_count(captions: Sequence[Judged]) -> Mapping[str, float | int | None]:
    return summarise(captions) | {"items": len(captions)}


def _item_score(final: Judged, whole: Judged) -> ItemScore:
    clean = not final.hallucinated
    return ItemScore(
        official=float(clean),
        strict=float(clean and final.words > 0),
        extracted=sorted(set(final.mentions)),
        unparsed=not final.words,
        facts=final.facts() | {f"whole_{name}": value for name, value in whole.facts().items()},
    )


CHAIR = Benchmark(
    name="chair", hub=HUB, splits=SPLITS, load=load, score=score, primary="chair_s", paired="hallucinated"
)
