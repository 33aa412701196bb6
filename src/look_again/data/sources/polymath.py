"""PolyMATH (Gupta et al., 2024), the multimodal one: screenshots of examination questions with options.

Layout read: one folder per split, `<split>/metadata.csv` beside its images, as in the hub set him1411/polymath (its
card names the splits; `image`, `category`, `answer_option`, `final_answer_range`, `final_answer` are its columns) and
under `data/` in the authors' repository github.com/kevinscaria/PolyMATH, whose files have the header `file_name,
question_text, answer_option, category, final_answer_range, contains_diagram, diagram_description, final_answer`. Not to
be confused with Qwen/PolyMath, which is text in many languages. That the hub's files have the whole header of the
repository's could not be checked.

`train` is made here: `test` without the rows of `testmini` and `testmini_img`, told by their file names.

A row's question is `question_text`, which was read off the image; where that failed ("None", "Question could be
extracted from image") the row asks for the question in the image. `answer_option` is one text, such as "(1) 6 (2) 8".
With a text for each label they become options, and `final_answer`, a letter or a number from 1, becomes the letter of
its place. Where the options are drawn only, the question shows the labels, and the reference is the label.
`diagram_description`, written by a model for those who cannot see, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import ascii_uppercase

from look_again.data.fields import short
from look_again.data.hub_datasets import find_folder
from look_again.data.readers import read_csv
from look_again.data.records import Record
from look_again.data.references import INLINE, question_samples, split_choices
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source

TABLE = "metadata.csv"
COLUMNS = ("file_name", "question_text", "answer_option", "final_answer")
HELD_OUT = ("testmini", "testmini_img")
ASK = "Answer the question in the image."
UNREAD = ("", "none", "question could be extracted from image", "answer could be extracted from image")


def polymath_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a split; bad records as SampleErrors. ValueError where there is no such folder, table or column."""
    made = source.split == "train"
    split = "test" if made else source.split
    patterns = [f"{split}/*", *(f"{name}/{TABLE}" for name in HELD_OUT if made)]
    folder = find_folder(source.path, patterns, example="him1411/polymath")
    held_out = {name for other in HELD_OUT if made for name in _names(_table(folder, other))}
    table = _table(folder, split)
    records = (record for record in _records(table) if isinstance(record, SampleError) or record["id"] not in held_out)
    base = source.base(table.parent)
    return question_samples(records, _shape, source="polymath", split=source.split, base=base)


def _table(folder: Path, split: str) -> Path:
    tables = [folder / split / TABLE, folder / "data" / split / TABLE]
    if found := next((table for table in tables if table.is_file()), None):
        return found
    raise ValueError(f"no table of {split}: looked for {' and '.join(map(str, tables))}")


def _records(table: Path) -> Iterator[Record | SampleError]:
    """With an id from the image's name, which is unique in the whole set."""
    for record in read_csv(table, COLUMNS):
        yield record if isinstance(record, SampleError) else {**record, "id": Path(record["file_name"] or "").stem}


def _names(table: Path) -> Iterator[str]:
    return (record["id"] for record in _records(table) if not isinstance(record, SampleError))


def _shape(record: Record, row_id: str) -> Record:
    question, options = _read(record["question_text"]) or ASK, _read(record["answer_option"])
    answer = (record["final_answer"] or "").strip().upper()
    if not re.fullmatch(r"[A-J]|[1-9]", answer):
        raise SampleError(
            row_id, f"final_answer is {short(record['final_answer'])}: one letter or one number is needed"
        )
    place = int(answer) - 1 if answer.isdigit() else ascii_uppercase.index(answer)
    choices = split_choices(options, INLINE)
    if choices and place >= len(choices.texts):
        raise SampleError(
            row_id, f"final_answer is {answer!r}, and there are {len(choices.texts)} options: {short(options)}"
        )
    shaped = {"question": question, "image": record["file_name"]}
    if choices and all(choices.texts) and not choices.before:
        return {**shaped, "options": list(choices.texts), "reference": ascii_uppercase[place]}
    return {
        **shaped,
        "question": f"{question}\n{options}".strip(),
        "reference": choices.labels[place] if choices else answer,
    }


def _read(text: str | None) -> str:
    """The text, or "" for what its authors wrote where they could read none."""
    plain = (text or "").strip()
    return "" if plain.rstrip(".").lower() in UNREAD else plain
