"""MME's questions: a folder per subtask with two questions an image, as published, or the hub's table.

Five subtasks keep images in images/ and questions in questions_answers_YN/, the others both side by side; any subtask
is read in either form. A question file has two lines of question, tab, Yes or No, and the name of its image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from look_again.data.fields import short
from look_again.data.sample import BadSample, SampleError
from look_again.evaluation.benchmark import Item, Place
from look_again.evaluation.benchmarks.image_folders import question_of, record_image, yes_or_no
from look_again.evaluation.benchmarks.layouts import Record, check_split, items_of, local_path, read_tables, row_id

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


def load(place: Place) -> Iterator[Item | BadSample]:
    """The items of the split's subtasks, one subtask after the other, the two questions of an image side by side.

    A folder holds a folder per subtask, itself or in one of the folders that the release unpacks to; a table has the
    columns of lmms-lab/MME. Images lie beside the questions, or in `place.images`/<subtask>. ValueError for another
    layout; a subtask without a folder is a bad row.
    """
    check_split(place, "MME", SPLITS)
    subtasks = PARTS.get(place.split) or tuple(PART_OF if place.split == "all" else [place.split])
    path = local_path(place)
    roots = [] if path is None else [path / root for root in _ROOTS if any((path / root / s).is_dir() for s in PART_OF)]
    if roots:
        images = roots[0] if place.images is None else place.images.expanduser()
        return items_of(_numbered(_folder_records(roots[0], images, subtasks)), _item, place.limit)
    try:
        records = read_tables(replace(place, split="test"), _COLUMNS)
    except ValueError as error:
        wanted = f"a folder per subtask ({', '.join(PART_OF)})"
        raise ValueError(f"{error}; nor is there {wanted}, in it or in {', '.join(_ROOTS[1:])}") from error
    left_out = set(PART_OF).difference(subtasks)
    return items_of(_numbered(r for r in records if r["category"] not in left_out), _item, place.limit)


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
        pictures = _images(_within(images / subtask, "images"))
        for file in files:
            yield from _file_records(file, subtask, pictures)


def _within(folder: Path, name: str) -> Path:
    return folder / name if (folder / name).is_dir() else folder


def _images(folder: Path) -> dict[str, Path]:
    """Stem -> image."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return {file.stem: file for file in files if file.suffix.lower() in _SUFFIXES}


def _file_records(file: Path, subtask: str, pictures: Mapping[str, Path]) -> list[Record | SampleError]:
    name = f"{subtask}/{file.stem}"
    try:
        questions = read_questions(file, name)
    except SampleError as error:
        return [error]
    if (image := pictures.get(file.stem)) is None:
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


def _item(record: Record, index: int) -> Item:
    image = row_id(record, "question_id", index)
    name = f"{image}#{record['number']}"
    if (subtask := record["category"]) not in PART_OF:
        raise SampleError(name, f"category is {short(subtask)}: use one of {', '.join(PART_OF)}")
    return Item(
        id=name,
        prompt=question_of(record, "question", name),
        reference=yes_or_no(record["answer"], name, "answer"),
        images=(record_image(record, name),),
        facts={"subtask": subtask, "part": PART_OF[subtask], "picture": image},
    )
