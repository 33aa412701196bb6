"""MME: yes or no, asked twice of every image, once with each answer, in 14 subtasks (Fu et al., 2023).

The questions come as published, a folder per subtask with two questions an image, or from the hub's table. Five
subtasks keep images in images/ and questions in questions_answers_YN/, the others both side by side; any subtask is
read in either form. A question file has two lines of question, tab, Yes or No, and the name of its image.

A subtask scores 100 x accuracy over questions + 100 x accuracy+ over images, the share with both questions right; ten
subtasks sum up to perception, four to cognition, at most 2000 and 800. The paper reports the sum of all.

The official rule looks for "yes", then for "no", in the first four characters, so "Not sure" is a no; anything else is
wrong. The strict score reads the reply as the accuracy reward does. An image of which only one question was asked has
an accuracy and no accuracy+, and is counted.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from look_again.data.fields import short
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
from look_again.evaluation.files.image_folders import parse_question, record_image
from look_again.evaluation.files.layouts import Record, build_items, check_split, local_path, read_tables, row_id

HUB = "lmms-lab/MME"
PARTS = {
    "perception": (
        "existence",
        "count",
        "position",
        "color",
        "posters",
        "celebrity",
        "scene",
        "landmark",
        "artwork",
        "OCR",
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}
PART_OF = {subtask: part for part, subtasks in PARTS.items() for subtask in subtasks}
SPLITS = ("all", *PARTS, *PART_OF)

_RELEASE = "MME_Benchmark_release_version"
_ROOTS = ("", "MME_Benchmark", _RELEASE, f"{_RELEASE}/MME_Benchmark")
_COLUMNS = ("question_id", "image", "question", "answer", "category")
_SUFFIXES = (".jpg", ".jpeg", ".png")

NOTES = {
    "official": 'MME calculation.py: "yes", else "no", in the first four characters of the reply; none is wrong',
    "strict": "a yes or no as look_again.scoring.extraction reads it; an unread reply is wrong",
    "score": "100 x accuracy + 100 x accuracy+ per subtask; perception, cognition and total are sums of these",
}

Metrics = dict[str, float | int | None]
Asked = Sequence[tuple[BenchmarkItem, ItemScore]]


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items of the split's subtasks, one subtask after the other, the two questions of an image side by side.

    A folder holds a folder per subtask, itself or in one of the folders that the release unpacks to; a table has the
    columns of lmms-lab/MME. Images lie beside the questions, or in `location.images`/<subtask>. ValueError for another
    layout; a subtask without a folder is a bad row.
    """
    check_split(location, "MME", SPLITS)
    subtasks = PARTS.get(location.split) or tuple(PART_OF if location.split == "all" else [location.split])
    path = local_path(location)
    roots = [] if path is None else [path / root for root in _ROOTS if any((path / root / s).is_dir() for s in PART_OF)]
    if roots:
        images = roots[0] if location.images is None else location.images.expanduser()
        return build_items(_numbered(_folder_records(roots[0], images, subtasks)), _item, location.limit)
    try:
        records = read_tables(replace(location, split="test"), _COLUMNS)
    except ValueError as error:
        wanted = f"a folder per subtask ({', '.join(PART_OF)})"
        raise ValueError(f"{error}; nor is there {wanted}, in it or in {', '.join(_ROOTS[1:])}") from error
    left_out = set(PART_OF).difference(subtasks)
    return build_items(_numbered(r for r in records if r["category"] not in left_out), _item, location.limit)


def read_questions(file: Path, row_id: str) -> list[tuple[str, str]]:
    """(question, answer) of the two lines of a question file; SampleError when there are not two."""
    try:
        lines = [line for line in file.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise SampleError(row_id, f"{file} cannot be read: {error}") from error
    split = [line.rpartition("\t") for line in lines]
    if len(split) != 2 or not all(tab for _, tab, _ in split):
        raise SampleError(row_id, f"{file.name} has {len(lines)} lines: two of question, tab, Yes or No are needed")
    return [(question, answer) for question, _, answer in split]


def _folder_records(root: Path, images: Path, subtasks: Sequence[str]) -> Iterator[Record | SampleError]:
    """Records with the columns of the table; for a bad question file one error stands for both questions."""
    for subtask in subtasks:
        folder = _within(root / subtask, "questions_answers_YN")
        files = sorted(folder.glob("*.txt"))
        if not files:
            yield SampleError(subtask, f"no questions of {subtask}: looked for {folder}/*.txt")
        images_by_stem = _images(_within(images / subtask, "images"))
        for file in files:
            yield from _file_records(file, subtask, images_by_stem)


def _within(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _images(folder: Path) -> dict[str, Path]:
    """Stem -> image."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.stem: file for file in files if file.suffix.lower() in _SUFFIXES}


def _file_records(file: Path, subtask: str, images_by_stem: Mapping[str, Path]) -> list[Record | SampleError]:
    name = f"{subtask}/{file.stem}"
    try:
        questions = read_questions(file, name)
    except SampleError as error:
        return [error]
    if (image := images_by_stem.get(file.stem)) is None:
        return [SampleError(name, f"the picture of {file} is missing: {file.stem}{' or '.join(_SUFFIXES)} is needed")]
    shared = {"question_id": f"{subtask}/{image.name}", "image": image, "category": subtask}
    return [shared | {"question": question, "answer": answer} for question, answer in questions]


def _numbered(records: Iterable[Record | SampleError]) -> Iterator[Record | SampleError]:
    """The records with their number among the questions of their image, from 1."""
    times: Counter[object] = Counter()
    for record in records:
        if isinstance(record, SampleError):
            yield record
            continue
        times[str(record["question_id"])] += 1
        yield {**record, "number": times[str(record["question_id"])]}


def _item(record: Record, index: int) -> BenchmarkItem:
    image = row_id(record, "question_id", index)
    name = f"{image}#{record['number']}"
    if (subtask := record["category"]) not in PART_OF:
        raise SampleError(name, f"category is {short(subtask)}: use one of {', '.join(PART_OF)}")
    return BenchmarkItem(
        id=name,
        prompt=parse_question(record, "question", name),
        reference=yes_or_no(record["answer"], name, "answer"),
        images=(record_image(record, name),),
        facts={"subtask": subtask, "part": PART_OF[subtask], "image_id": image},
    )


def official_reading(text: str) -> str | None:
    """ "yes", "no", or None for a reply that the official rule cannot read.

    Example: "Yes, it is." is yes, "Not sure" is no, "It is." is None.
    """
    start = text.strip().lower()[:4]
    return next((answer for answer in ("yes", "no") if answer in start), None)


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Per subtask, and the sums over the subtasks that were asked; `notes` names those that were not."""
    scores = [
        yes_no_score(item.reference, reply.final, official_reading(reply.final))
        for item, reply in zip(items, replies, strict=True)
    ]
    asked: dict[str, list[tuple[BenchmarkItem, ItemScore]]] = defaultdict(list)
    for item, one in zip(items, scores, strict=True):
        asked[item.facts["subtask"]].append((item, one))
    subtasks = {subtask: summarise(asked[subtask]) for subtask in PART_OF if subtask in asked}
    counted = ("items", "unparsed", "official_unparsed", "incomplete_pairs")
    counts: Metrics = {name: sum(metrics[name] or 0 for metrics in subtasks.values()) for name in counted}
    missing = [subtask for subtask in PART_OF if subtask not in subtasks]
    return Scores(
        items=scores,
        metrics=_sums(subtasks) | counts | {"subtasks": len(subtasks)},
        subsets={f"subtask/{subtask}": metrics for subtask, metrics in subtasks.items()},
        notes=NOTES | {"not_asked": ", ".join(missing) or "no subtask"},
    )


def summarise(asked: Asked) -> Metrics:
    """One subtask: accuracy and accuracy_plus (shares), score (of 200), the same strictly, and counts.

    None where nothing, or no image with both its questions, was asked.
    """
    pairs: dict[str, list[ItemScore]] = defaultdict(list)
    for item, one in asked:
        pairs[item.facts["image_id"]].append(one)
    complete = [pair for pair in pairs.values() if len(pair) == 2]
    scores = [one for _, one in asked]
    counts: Metrics = {
        "items": len(scores),
        "unparsed": sum(one.unparsed for one in scores),
        "official_unparsed": sum(one.facts["official_answer"] is None for one in scores),
        "incomplete_pairs": len(pairs) - len(complete),
    }
    strict = _points(scores, complete, lambda one: one.strict == 1)
    official = _points(scores, complete, lambda one: one.official == 1)
    return official | {f"strict_{name}": value for name, value in strict.items()} | counts


def _points(
    scores: Sequence[ItemScore], pairs: Sequence[Sequence[ItemScore]], right: Callable[[ItemScore], bool]
) -> Metrics:
    accuracy = share(sum(map(right, scores)), len(scores))
    plus = share(sum(all(map(right, pair)) for pair in pairs), len(pairs))
    points = None if accuracy is None or plus is None else 100 * accuracy + 100 * plus
    return {"accuracy": accuracy, "accuracy_plus": plus, "score": points}


def _sums(subtasks: Mapping[str, Metrics]) -> Metrics:
    """perception, cognition and total, each also strict; None where no subtask of them has a score."""
    sums: Metrics = {}
    for prefix in ("", "strict_"):
        for name, members in {"total": PART_OF, **PARTS}.items():
            found = [subtasks[subtask][f"{prefix}score"] for subtask in members if subtask in subtasks]
            points = [value for value in found if value is not None]
            sums[f"{prefix}{name}"] = sum(points) if points else None
    return sums


MME = Benchmark(name="mme", hub=HUB, splits=SPLITS, load=load, score=score, primary="total")
