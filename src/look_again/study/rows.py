"""Rows of one's own: a folder with images, questions and given beginnings of answers, for any checkpoint.

`rows.jsonl` has one row per line: {"id", "image" (a path in the folder), "question", "answer", "beginnings":
{"100": "...<REFLECTION>", "800": "..."}}. A beginning is what the response starts with: work of about that
many tokens, up to and including `<REFLECTION>`. Scored are the answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import accuracies
from look_again.evaluation.subjects import PREFIX_FACT
from look_again.tabletop.tabletop_benchmark import answer_score
from look_again.text.grammar import open_tag

KEYS = ("id", "image", "question", "answer", "beginnings")


def folder_benchmark(length: int, first: int = 0) -> Benchmark:
    """The rows of a folder at one length of work, from number `first` on."""
    return Benchmark(
        name=f"rows-{length}",
        hub="",
        splits=("rows",),
        load=partial(_load, length=length, first=first),
        score=_score_answers,
        primary="accuracy",
        paired="strict",
    )


def read_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder. ValueError, naming the line, for one without the keys or with a beginning that does not
    end in `<REFLECTION>`.
    """
    path, rows = folder / "rows.jsonl", []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        row = json.loads(line)
        if missing := [key for key in KEYS if key not in row]:
            raise ValueError(f"{path}, line {number}: no {missing[0]!r}; a row has {', '.join(KEYS)}")
        for length, text in row["beginnings"].items():
            if not text.endswith(open_tag("REFLECTION")):
                raise ValueError(
                    f"{path}, line {number}: the beginning of {length} tokens does not end in <REFLECTION>"
                )
        rows.append(row)
    return rows


def _score_answers(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    scores = [answer_score(item, reply) for item, reply in zip(items, replies, strict=True)]
    return Scores(items=scores, metrics=accuracies(scores))


def _load(location: DataLocation, length: int, first: int) -> Iterator[BenchmarkItem]:
    folder = Path(location.path)
    usable = [row for row in read_rows(folder) if str(length) in row["beginnings"]]
    for row in usable[first : None if location.limit is None else first + location.limit]:
        yield BenchmarkItem(
            id=str(row["id"]),
            images=(folder / row["image"],),
            prompt=row["question"],
            reference=str(row["answer"]),
            facts={PREFIX_FACT: row["beginnings"][str(length)]},
        )
