"""POPE: is this object in the image, yes or no; half of the objects are not (Li et al., EMNLP 2023).

The official rule reads the first sentence: the word "no" or "not" in it means no, and everything else means yes. So
silence and "I cannot tell" are a yes. The strict score reads a reply as the accuracy reward does, or not at all, and an
unread reply counts as the wrong answer. The paper reports F1 as the mean of the three splits; the request behind each
question is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from look_again.data.fields import short
from look_again.data.image_files import ImageSource
from look_again.data.readers import read_jsonl
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
from look_again.evaluation.benchmarks.yes_no import yes_no_score, yes_or_no
from look_again.evaluation.files.image_folders import image_folders, image_in, parse_question, record_image
from look_again.evaluation.files.layouts import Record, build_items, check_split, local_path, read_tables, row_id

HUB = "lmms-lab/POPE"
KINDS = ("random", "popular", "adversarial")
SPLITS = ("all", *KINDS)
REQUEST = "Please answer yes or no."
NOTES = {
    "official": 'POPE evaluate.py: "No", "no" or "not" among the words of the first sentence is no, all else is yes',
    "strict": "a yes or no as look_again.scoring.extraction reads it; an unread reply counts as the wrong answer",
    "means": "every share is the mean of the splits, as in the paper",
}

Metrics = dict[str, float | int | None]

_COLUMNS = ("question_id", "question", "answer", "image", "category")
_FOLDERS = ("", "coco", "output/coco")  # where in a folder the official files may lie


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """Items of coco_pope_<split>.json, a folder's or one such file, or of a table as lmms-lab/POPE on the hub.

    The split "all" is random, popular and adversarial, one after the other. Images of the official files lie in
    `location.images`, or beside them in val2014/ or images/. ValueError for another layout.
    """
    check_split(location, "POPE", SPLITS)
    kinds = KINDS if location.split == "all" else (location.split,)
    path = local_path(location)
    files = {} if path is None else _files(path, kinds)
    if path is not None and files:
        folders = image_folders(location, path if path.is_dir() else path.parent, "val2014", "images")
        make = partial(_item, image=partial(_file_image, folders=folders))
        return build_items(_file_records(files), make, location.limit)
    try:
        records = read_tables(replace(location, split="test"), _COLUMNS)
    except ValueError as error:
        wanted = ", ".join(f"coco_pope_{kind}.json" for kind in kinds)
        raise ValueError(f"{error}; nor are there {wanted} in it, in coco/ or in output/coco/") from error
    left_out = set(KINDS).difference(kinds)
    return build_items((r for r in records if r["category"] not in left_out), _item, location.limit)


def official_reading(text: str) -> str:
    """ "yes" or "no" by the official rule, which nothing is unreadable to.

    Example: "No, it is not." is no; "It isn't there" is yes, and so is "".
    """
    words = text.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "no", "not"}.intersection(words) else "yes"


def confusion(pairs: Iterable[tuple[str, str]]) -> Metrics:
    """Accuracy, precision, recall, F1 and the share of yes, from 0 to 1, of (reference, answer) pairs.

    "yes" is the positive class. None where there is nothing to divide by; F1 is 0 when no yes is right.
    """
    listed = list(pairs)
    right_yes = listed.count(("yes", "yes"))
    true_yes = sum(reference == "yes" for reference, _ in listed)
    said_yes = sum(answer == "yes" for _, answer in listed)
    return {
        "accuracy": share(sum(reference == answer for reference, answer in listed), len(listed)),
        "precision": share(right_yes, said_yes),
        "recall": share(right_yes, true_yes),
        "f1": share(2 * right_yes, true_yes + said_yes),
        "yes_ratio": share(said_yes, len(listed)),
    }


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Per split; and of every share the mean over the splits that were asked."""
    scores = [
        yes_no_score(item.reference, reply.final, official_reading(reply.final))
        for item, reply in zip(items, replies, strict=True)
    ]
    pairs = list(zip(items, scores, strict=True))
    splits = {kind: [pair for pair in pairs if pair[0].facts["category"] == kind] for kind in KINDS}
    subsets = {f"category/{kind}": _metrics(asked) for kind, asked in splits.items() if asked}
    counts: Metrics = {"items": len(items), "unparsed": sum(one.unparsed for one in scores)}
    return Scores(items=scores, metrics=_means(list(subsets.values())) | counts, subsets=subsets, notes=NOTES)


def _files(path: Path, kinds: Sequence[str]) -> dict[str, Path]:
    """Kind -> its official file; {} unless there is one for each."""
    if path.is_file():
        named = [kind for kind in kinds if f"pope_{kind}" in path.stem]
        return dict.fromkeys(named, path)
    candidates = [(kind, path / folder / f"coco_pope_{kind}.json") for kind in kinds for folder in _FOLDERS]
    found = {kind: file for kind, file in reversed(candidates) if file.is_file()}
    return {kind: found[kind] for kind in kinds} if len(found) == len(kinds) else {}


def _file_records(files: Mapping[str, Path]) -> Iterator[Record | SampleError]:
    """The lines of the official files under the names of the table's columns."""
    for kind, path in files.items():
        for record in read_jsonl(path):
            if isinstance(record, SampleError):
                yield record
                continue
            renamed = {"question": record.get("text"), "answer": record.get("label"), "category": kind}
            yield {**record, **renamed}


def _file_image(record: Record, name: str, folders: Sequence[Path]) -> ImageSource:
    return image_in(folders, parse_question(record, "image", name), name)


def _item(record: Record, index: int, image: Callable[[Record, str], ImageSource] = record_image) -> BenchmarkItem:
    kind = record["category"]
    if kind not in KINDS:
        raise SampleError(f"row {index}", f"category is {short(kind)}: use one of {', '.join(KINDS)}")
    name = f"{kind}-{row_id(record, 'question_id', index)}"
    return BenchmarkItem(
        id=name,
        prompt=f"{parse_question(record, 'question', name)} {REQUEST}",
        reference=yes_or_no(record["answer"], name, "answer"),
        images=(image(record, name),),
        facts={"category": kind},
    )


def _metrics(asked: Sequence[tuple[BenchmarkItem, ItemScore]]) -> Metrics:
    official = confusion((item.reference, str(one.facts["official_answer"])) for item, one in asked)
    strict = confusion((item.reference, one.extracted or _wrong(item.reference)) for item, one in asked)
    del strict["yes_ratio"]  # it would count answers that nobody gave
    counts: Metrics = {"items": len(asked), "unparsed": sum(one.unparsed for _, one in asked)}
    return official | {f"strict_{name}": value for name, value in strict.items()} | counts


def _wrong(reference: str) -> str:
    return "no" if reference == "yes" else "yes"


def _means(subsets: Sequence[Metrics]) -> Metrics:
    """Of every share, the mean over the splits where it is defined."""
    names = [name for name in (subsets[0] if subsets else ()) if name not in ("items", "unparsed")]
    defined = {name: [value for subset in subsets if (value := subset[name]) is not None] for name in names}
    return {name: share(sum(values), len(values)) for name, values in defined.items()}


POPE = Benchmark(name="pope", hub=HUB, splits=SPLITS, load=load, score=score, primary="f1")
