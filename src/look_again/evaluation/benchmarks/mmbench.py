"""MMBench V1.1, English: each question asked once per option, with the options moved on by one place each time.

The paper reports "MMBench V1.1 EN" as one number and no protocol; CircularEval is the benchmark's own: a question is
right when every copy of it is. A table holds the copies of question 7 as the rows 1000007, 2000007, …; a table without
any copies gets them here. What is published with answers is the split dev, as `MMBench_DEV_EN_V11.tsv`; copies on the
hub are of V1.0, so the results name their table.

The official score reads replies as VLMEvalKit does without a judge, the strict one as elsewhere; a question of which
not all copies were asked, as in a part of a run, has no score and is counted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from string import ascii_uppercase
from typing import Any

from look_again.data.fields import check_text, parse_image, short
from look_again.data.image_files import ImageSource
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, ItemScore, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import (
    LETTER_INSTRUCTION,
    STRICT_RULE,
    Metrics,
    matched_letter,
    mean,
    reference_letter,
    score_choice,
)
from look_again.evaluation.files.layouts import (
    Record,
    build_item,
    check_split,
    label,
    local_path,
    read_tables,
    with_columns,
)
from look_again.evaluation.files.tsv import read_tsv

TABLE = "MMBench_DEV_EN_V11.tsv"
SPLITS = ("dev",)
COPY_OFFSET = 1_000_000  # between the indices of a question's copies
MAX_REFERENCE = 64  # characters; a longer text in the column image is an image, a shorter one names another row

_COLUMNS = ("index", "question", "A", "B", "answer", "image")
_CONFIGURATIONS = {"lmms-lab/MMBench": "en"}
_MISSING = ("", "nan")  # what stands for no value in tables written as text; "None" may be an option's

Copies = dict[int, Record]  # number of the copy, 0 for the question itself -> row

UNKNOWN_VERSION = "not told by the table's name; copies on the hub are of V1.0, which has other questions than V1.1"


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items, all copies of a question one after the other; `location.limit` counts questions.

    Read from a `.tsv` or Parquet file, a folder with `MMBench_DEV_EN_V11.tsv` or `dev-….parquet` (also in `data` or
    `en`), or the hub. A bad row takes its question's other copies with it, since a part of them has no score; each is a
    BadSample. The whole table is read before the first item: copies may stand anywhere. ValueError for other layouts.
    """
    check_split(location, "MMBench", SPLITS, " (the answers of test are withheld)")
    return _items(*_records(location), location.limit)


def _records(location: DataLocation) -> tuple[Iterator[Record | SampleError], str]:
    """The rows, and what to call their table."""
    path = local_path(location)
    table = path / TABLE if path is not None and path.is_dir() else path
    if table is not None and table.suffix == ".tsv" and table.is_file():
        return with_columns(read_tsv(table), _COLUMNS, str(table)), table.name
    try:
        configuration = _CONFIGURATIONS.get(location.path)
        records = read_tables(location, _COLUMNS, folders=("", "data", "en"), configuration=configuration)
    except ValueError as error:
        raise ValueError(f"{error}; and {TABLE}") from error
    return records, location.path if path is None else path.name


def _items(
    records: Iterable[Record | SampleError], table: str, limit: int | None
) -> Iterator[BenchmarkItem | BadSample]:
    questions: dict[int, Copies] = {}
    for number, record in enumerate(records):
        try:
            _add(questions, record, number)
        except SampleError as error:
            yield BadSample(error.row_id or f"row {number}", error.reason)
    copied = any(max(copies) for copies in questions.values())
    for question in islice(questions, limit):
        yield from _question(question, questions, table, copied)


def _add(questions: dict[int, Copies], record: Record | SampleError, number: int) -> None:
    if isinstance(record, SampleError):
        raise record
    try:
        index = int(record["index"])
    except (TypeError, ValueError, OverflowError) as error:
        raise SampleError(f"row {number}", f"index is {short(record['index'])}: a whole number is needed") from error
    copies = questions.setdefault(index % COPY_OFFSET, {})
    if index // COPY_OFFSET in copies:
        raise SampleError(str(index), "this index occurs twice: each copy of a question has its own")
    copies[index // COPY_OFFSET] = record


def _question(
    question: int, questions: Mapping[int, Copies], table: str, copied: bool
) -> list[BenchmarkItem | BadSample]:
    """All items of a question, or a BadSample for each of its rows."""
    copies = questions[question]
    rows = [_row(question, copy) for copy in sorted(copies)]
    if sorted(copies) != list(range(len(copies))):
        return [BadSample(row, f"of the copies of {question}, only {', '.join(rows)} are there") for row in rows]
    made: list[BenchmarkItem | BadSample] = []
    decoded: dict[str, bytes] = {}
    try:
        copies = copies if copied else rotated(copies[0], rows[0])
        for copy in sorted(copies):
            image = _image(copies[copy].get("image"), questions, decoded, _row(question, copy))
            facts = {"question": str(question), "copy": copy, "copies": len(copies), "table": table}
            made.append(_item(copies[copy], _row(question, copy), image, **facts))
    except SampleError as error:
        return [
            BadSample(row, error.reason if row == error.row_id else f"another copy is bad: {error}") for row in rows
        ]
    return made


def _row(question: int, copy: int) -> str:
    return str(question + copy * COPY_OFFSET)


def rotated(record: Record, row: str) -> Copies:
    """A question's copies, one per option: in copy k each option stands k places further on, the last ones first.

    SampleError for options with a gap and for an answer that is none of them.
    """
    options = lettered_options(record, row)
    answer = ascii_uppercase.index(reference_letter(record.get("answer"), options, row))
    count = len(options)
    copies: Copies = {}
    for copy in range(count):
        moved = {ascii_uppercase[(place + copy) % count]: option for place, option in enumerate(options)}
        copies[copy] = dict(record) | moved | {"answer": ascii_uppercase[(answer + copy) % count]}
    return copies


def lettered_options(record: Record, row: str) -> tuple[str, ...]:
    """The texts in the columns A, B, … up to the last that has one; SampleError where one before it has none."""
    cells = [record.get(letter) for letter in ascii_uppercase if letter in record]
    texts = ["" if _missing(cell) else str(cell).strip() for cell in cells]
    while texts and not texts[-1]:
        texts.pop()
    if "" in texts:
        raise SampleError(row, f"option {ascii_uppercase[texts.index('')]} is missing between others")
    return tuple(texts)


def _missing(cell: object) -> bool:
    return cell is None or cell != cell or str(cell).strip().lower() in _MISSING


def _item(record: Record, row: str, image: ImageSource, **facts: Any) -> BenchmarkItem:
    options = lettered_options(record, row)
    question = check_text(record.get("question"), row, "question")
    hint = record.get("hint")
    made = Sample(
        id=row,
        images=(image,),
        question=question if _missing(hint) or hint == "None" else f"{hint}\n{question}",
        options=options,
        reference=reference_letter(record.get("answer"), options, row),
        source="mmbench",
    )
    groups = {"category": label(record, "category"), "l2_category": label(record, "l2-category", "L2-category")}
    return build_item(made, LETTER_INSTRUCTION, **groups, **facts)


def _image(value: object, questions: Mapping[int, Copies], decoded: dict[str, bytes], row: str) -> ImageSource:
    """The image in a cell: base64, the index of the row that has it, or what Parquet holds; `decoded` once each."""
    if isinstance(value, str) and len(value) <= MAX_REFERENCE:
        value = _referred(value, questions, row)
    if not isinstance(value, str):
        return parse_image(value, row, "image", None)
    if value not in decoded:
        try:
            decoded[value] = base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise SampleError(row, f"image is {short(value)}: not base64 ({error})") from error
    return decoded[value]


def _referred(value: str, questions: Mapping[int, Copies], row: str) -> object:
    try:
        copy, question = divmod(int(value), COPY_OFFSET)
        return questions[question][copy]["image"]
    except (ValueError, KeyError) as error:
        raise SampleError(row, f"image is {short(value)}: neither base64 nor the index of a row that has it") from error


@dataclass(frozen=True)
class CircularQuestion:
    """A question's copies. first: place of its unrotated item, complete: whether all copies were asked."""

    first: int
    members: tuple[int, ...]
    complete: bool


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Circular accuracies of the whole, per category and subcategory; no judge is asked.

    Items of `question` belong together, `copies` says how many there are. ItemScore: points of the copy; `circular`
    and `strict_circular` of the question, 0 or 1, among the facts of its first item, None elsewhere.
    """
    scores = [
        score_choice(
            item,
            reply,
            matched_letter(reply.final, item.facts["options"]),
            official_2026_06=_matched_since_june_2026(item, reply),
        )
        for item, reply in zip(items, replies, strict=True)
    ]
    questions = grouped(items)
    scores = _with_circular(scores, questions)
    tables = sorted({str(item.facts["table"]) for item in items})
    notes = {
        "official": "CircularEval with VLMEvalKit's utils/matching_util.py at 590f052 (February 2026) and no judge: a "
        "reply it cannot match is wrong",
        "circular_accuracy_2026_06": "the same at a67ace5 (June 2026), which also reads the letter behind 'answer is'",
        "strict": STRICT_RULE,
        "table": ", ".join(tables),
        "version": "V1.1" if all("V11" in table for table in tables) else UNKNOWN_VERSION,
    }
    return Scores(
        items=scores, metrics=circular(questions, scores), subsets=_subsets(items, questions, scores), notes=notes
    )


def _matched_since_june_2026(item: BenchmarkItem, reply: ModelReply) -> float:
    return float(matched_letter(reply.final, item.facts["options"], verbose=True) == item.reference)


def _with_circular(scores: Sequence[ItemScore], questions: Sequence[CircularQuestion]) -> list[ItemScore]:
    """The scores, with the question's points among the facts of its first copy, None among those of all others."""
    points: dict[int, dict[str, int]] = {}
    for question in questions:
        if question.complete:
            points[question.first] = {
                "circular": int(all(scores[member].official for member in question.members)),
                "circular_2026_06": int(all(scores[member].facts["official_2026_06"] for member in question.members)),
                "strict_circular": int(all(scores[member].strict for member in question.members)),
            }
    undefined = dict.fromkeys(("circular", "circular_2026_06", "strict_circular"))
    return [replace(one, facts={**one.facts, **points.get(at, undefined)}) for at, one in enumerate(scores)]


def grouped(items: Sequence[BenchmarkItem]) -> list[CircularQuestion]:
    """The questions, in order of appearance."""
    members: dict[str, list[int]] = {}
    for at, item in enumerate(items):
        members.setdefault(item.facts["question"], []).append(at)
    return [
        CircularQuestion(
            first=min(group, key=lambda at: items[at].facts["copy"]),
            members=tuple(group),
            complete=len(group) == items[group[0]].facts["copies"],
        )
        for group in members.values()
    ]


def circular(questions: Sequence[CircularQuestion], scores: Sequence[ItemScore]) -> Metrics:
    """circular_accuracy (also …_2026_06 and strict_…) over complete questions; first_accuracy of unrotated copies.

    Also counts: questions, incomplete (without a score), items and unparsed (copies).
    """
    asked = [scores[member] for question in questions for member in question.members]
    firsts = [scores[question.first] for question in questions if question.complete]
    return {
        "circular_accuracy": mean([first.facts["circular"] for first in firsts]),
        "circular_accuracy_2026_06": mean([first.facts["circular_2026_06"] for first in firsts]),
        "strict_circular_accuracy": mean([first.facts["strict_circular"] for first in firsts]),
        "first_accuracy": mean([first.official or 0.0 for first in firsts]),
        "questions": len(questions),
        "incomplete": len(questions) - len(firsts),
        "items": len(asked),
        "unparsed": sum(one.unparsed for one in asked),
    }


def _subsets(
    items: Sequence[BenchmarkItem], questions: Sequence[CircularQuestion], scores: Sequence[ItemScore]
) -> dict[str, Metrics]:
    groups: dict[str, list[CircularQuestion]] = {}
    for fact in ("l2_category", "category"):
        for question in sorted(questions, key=lambda question: str(items[question.first].facts[fact])):
            groups.setdefault(f"{fact}/{items[question.first].facts[fact]}", []).append(question)
    return {name: circular(group, scores) for name, group in groups.items()}


MMBENCH = Benchmark(
    name="mmbench",
    hub="lmms-lab/MMBench",
    splits=SPLITS,
    load=load,
    score=score,
    primary="circular_accuracy",
    paired="circular",
)
