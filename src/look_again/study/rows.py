"""Rows of one's own: a folder with images, questions and given beginnings of answers, for any checkpoint.

`rows.jsonl` has one row per line: {"id", "image" (a path in the folder), "question", "answer", "beginnings":
{"100": "...<REFLECTION>", "800": "..."}}. A beginning is what the response starts with: work of about that
many tokens, up to and including `<REFLECTION>`. Scored are the answers. For the study of swap a row has
"answer_of_text" too: the answer that follows from what its beginnings describe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation
from look_again.evaluation.subjects import PREFIX_FACT
from look_again.tabletop.long_world.long_benchmark import DESCRIBED
from look_again.tabletop.long_world.long_studies import score_answers, score_followed
from look_again.text.grammar import open_tag

KEYS = ("id", "image", "question", "answer", "beginnings")


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


def read_rows(folder: Path, keys: Sequence[str] = KEYS) -> list[dict[str, Any]]:
    """The rows of a folder. ValueError, naming the line, for one without the keys or with a beginning that does not
    end in `<REFLECTION>`.
    """
    path, rows = folder / "rows.jsonl", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if missing := [key for key in keys if key not in row]:
            raise ValueError(f"{path}, line {number}: no {missing[0]!r}; a row has {', '.join(keys)}")
        for length, text in row["beginnings"].items():
            if not text.endswith(open_tag("REFLECTION")):
                raise ValueError(
                    f"{path}, line {number}: the beginning of {length} tokens does not end in <REFLECTION>"
                )
        rows.append(row)
    return rows


def _load(location: DataLocation, length: int, first: int, keys: Sequence[str]) -> Iterator[BenchmarkItem]:
    folder = Path(location.path)
    usable = [row for row in read_rows(folder, keys) if str(length) in row["beginnings"]]
    for row in usable[first : None if location.limit is None else first + location.limit]:
        yield BenchmarkItem(
            id=str(row["id"]),
            images=(folder / row["image"],),
            prompt=row["question"],
            reference=str(row["answer"]),
            facts={PREFIX_FACT: row["beginnings"][str(length)]}
            | ({DESCRIBED: row[DESCRIBED]} if DESCRIBED in keys else {}),
        )
