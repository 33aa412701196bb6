"""MMMU: college questions of 30 subjects in six disciplines, most with options, some open, with up to seven images.

The paper reports it and no protocol. Items and score follow MMMU's own repository; where its parser finds no letter it
guesses one at random, here always the same one per item, and the count of guesses is a metric. Images come before
the question, so `<image 2>` in its text becomes "[image 2]", the second image shown.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from itertools import chain

from look_again.data.fields import check_text, option_texts, parse_image, short
from look_again.data.hub_datasets import read_hub
from look_again.data.image_files import ImageSource
from look_again.data.readers import read_parquet
from look_again.data.sample import BadSample, Sample, SampleError
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, ItemScore, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import (
    LETTER_INSTRUCTION,
    STRICT_RULE,
    guess,
    lmms_letter,
    mean,
    mmmu_letter,
    reference_letter,
    score_choice,
    summarise_choices,
)
from look_again.evaluation.benchmarks.open_answers import (
    OPEN_INSTRUCTION,
    mmmu_open,
    read_answer,
    same_answer,
    usable_answer,
)
from look_again.evaluation.files.layouts import (
    Record,
    build_item,
    build_items,
    check_split,
    label,
    local_path,
    read_tables,
    row_id,
    split_tables,
    with_columns,
)

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}
DISCIPLINE_OF = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}
SUBJECTS = tuple(sorted(DISCIPLINE_OF))
SPLITS = ("validation", "dev")
MAX_IMAGES = 7
MAX_LITERAL = 20_000  # characters of an options field; the longest are some hundreds

MMMU_RULE = "MMMU mmmu/utils/eval_utils.py at bb0b95a (May 2025)"
LMMS_RULE = "lmms-eval 0.7.3 tasks/mmmu/utils.py"

_COLUMNS = ("id", "question", "options", "answer", "image_1")
_MARK = re.compile(r"<image ?(\d+)>")
_LIST = re.compile(r"\[\s*['\"].*\]", re.DOTALL)
_SUBJECT = re.compile(r"[a-z]+_(.+)_\d+")


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items of a split, subject by subject: the hub's configurations, or a local copy.

    A local copy is one Parquet file, a folder per subject with `<split>-….parquet`, or such files in the folder or its
    `data`. ValueError for none of these and for the split test, whose answers are withheld.
    """
    check_split(location, "MMMU", SPLITS, " (the answers of test are withheld)")
    return build_items(_records(location), _item, location.limit)


def _records(location: DataLocation) -> Iterator[Record]:
    path = local_path(location)
    if path is None:
        parts = (read_hub(location.path, location.split, subject) for subject in SUBJECTS)
        return with_columns(chain.from_iterable(parts), _COLUMNS, location.path)
    tables = [table for subject in SUBJECTS for table in split_tables(path / subject, location.split)]
    if tables:
        return with_columns(chain.from_iterable(map(read_parquet, tables)), _COLUMNS, str(path))
    try:
        return read_tables(location, _COLUMNS)
    except ValueError as error:
        raise ValueError(f"{error}; and folders {SUBJECTS[0]} to {SUBJECTS[-1]} with such tables") from error


def _item(record: Record, index: int) -> BenchmarkItem:
    name = row_id(record, "id", index)
    options = listed_options(record.get("options"), name)
    asked = record.get("question_type") or ("multiple-choice" if options else "open")
    if asked == "multiple-choice":
        return choice_item(record, name, options)
    answers = _open_answers(record.get("answer"), name)
    row = marked_row(record, name, (), answers[0])
    return build_item(row, OPEN_INSTRUCTION, reference=answers, question_type="open", **parse_groups(record, name))


def choice_item(record: Record, name: str, options: Sequence[str]) -> BenchmarkItem:
    """The item of a record of MMMU or MMMU-Pro with options. SampleError for an answer that is none of them."""
    answer = reference_letter(record.get("answer"), options, name)
    row = marked_row(record, name, options, answer)
    return build_item(row, LETTER_INSTRUCTION, question_type="multiple-choice", **parse_groups(record, name))


def listed_options(value: object, name: str) -> tuple[str, ...]:
    """Options from the text of a Python list, as MMMU's tables hold them, or from a list; SampleError otherwise."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value) if len(value) <= MAX_LITERAL else value
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
            raise SampleError(name, f"options is {short(value)}: not the text of a list ({error})") from error
    return option_texts(value, name)


def parse_groups(record: Record, name: str) -> dict[str, str]:
    """subject, from its column or from the id "validation_Art_Theory_1", and discipline."""
    found = _SUBJECT.fullmatch(name)
    subject = found[1] if found else label(record, "subject")
    return {"subject": subject, "discipline": DISCIPLINE_OF.get(subject, "unknown")}


def marked_row(record: Record, name: str, options: Sequence[str], answer: str) -> Sample:
    """The row with the images that question or options mark, in order, and the marks numbered as they are shown.

    Images without a mark are left out, as MMMU's harness does: they belong to the explanation of the answer. A row
    without any mark shows all of them. SampleError for a mark without its image.
    """
    question = check_text(record.get("question"), name, "question")
    numbers = sorted({int(number) for text in (question, *options) for number in _MARK.findall(text)})
    numbers = numbers or [n for n in range(1, MAX_IMAGES + 1) if record.get(f"image_{n}") is not None]
    places = {str(number): place for place, number in enumerate(numbers, start=1)}

    def shown(text: str) -> str:
        return _MARK.sub(lambda mark: f"[image {places[str(int(mark[1]))]}]", text)

    images = tuple(_image(record, number, name) for number in numbers)
    return Sample(
        id=name,
        images=images,
        question=shown(question),
        options=tuple(map(shown, options)),
        reference=answer,
        source="mmmu",
    )


def _image(record: Record, number: int, name: str) -> ImageSource:
    field = f"image_{number}"
    if record.get(field) is None:
        raise SampleError(name, f"the text marks <image {number}>, and {field} is missing")
    return parse_image(record[field], name, field, None)


def _open_answers(value: object, name: str) -> list[str]:
    """The accepted answers: the text, or the texts of a list that is written out as text."""
    text = check_text(value, name, "answer").strip()
    if text in ("", "?"):
        raise SampleError(name, f"answer is {short(text)}: withheld; use the split validation or dev")
    answers = listed_options(text, name) if _LIST.fullmatch(text) else (text,)
    return [usable_answer(answer, name) for answer in answers]


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Accuracies of the whole, per subject and per discipline. No judge is asked."""
    scores = [_score(item, reply) for item, reply in zip(items, replies, strict=True)]
    subjects = {item.facts["subject"] for item in items}
    notes = {
        "official": f"{MMMU_RULE}; a reply without an answer gets a random letter, seeded by the item's id",
        "lmms_accuracy": f"the same by {LMMS_RULE}: a letter also counts before a full stop and at the end of a word",
        "strict": f"{STRICT_RULE}; open questions: the one answer given, numbers to two decimals",
        "subjects": f"{len(subjects)} of {len(SUBJECTS)}",
    }
    guessed = sum(bool(one.facts["guessed"]) for one in scores)
    lmms = mean([float(one.facts["lmms_official"]) for one in scores])
    groups = ("discipline", "subject", "question_type")
    return summarise_choices(items, scores, groups, notes, guessed=guessed, lmms_accuracy=lmms)


def _score(item: BenchmarkItem, reply: ModelReply) -> ItemScore:
    if item.facts["question_type"] == "open":
        return _score_open(item, reply)
    options = item.facts["options"]
    found, read_by_lmms = mmmu_letter(reply.final, options), lmms_letter(reply.final, options)
    guessed = guess(item.id, options)
    lmms = float((read_by_lmms or guessed) == item.reference)
    return score_choice(item, reply, found or guessed, guessed=found is None, lmms_official=lmms)


def _score_open(item: BenchmarkItem, reply: ModelReply) -> ItemScore:
    readings = [(read_answer(reply.final, answer), answer) for answer in item.reference]
    found = [reading for reading, _ in readings if reading is not None]
    right = any(reading is not None and same_answer(reading, answer) for reading, answer in readings)
    return ItemScore(
        official=float(mmmu_open(reply.final, item.reference)),
        strict=float(right),
        extracted=found[0] if found else None,
        unparsed=not found,
        facts={"guessed": False, "lmms_official": float(mmmu_open(reply.final, item.reference))},
    )


MMMU = Benchmark(
    name="mmmu",
    hub="MMMU/MMMU",
    splits=SPLITS,
    load=load,
    score=score,
    primary="accuracy",
)
