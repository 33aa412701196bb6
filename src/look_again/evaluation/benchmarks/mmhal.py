"""MMHal-Bench: 96 questions that invite hallucination, each answer rated from 0 to 6 by a judge (Sun et al., 2023).

The questions come as published, `response_template.json` beside `images/`, or from a table of the same columns. The
benchmark's repository on the hub loads by a script, which `datasets` no longer runs, so its files are fetched as they
are.

The paper has GPT-4o judge, by the benchmark's rubric. Here any endpoint judges, by a rubric of our own
(`assets/mmhal_judge.md`) with the same seven ratings, so that numbers compare within this project alone. As officially,
a rating below 3 is a hallucination, and a judge's reply must name exactly one rating. A judge whose reply does not is
asked again, and after `TRIES` replies the answer is unjudged: it is counted and listed, means take it for 0, as the
official script does, `judged_…` and comparisons leave it out. The strict score gives an empty answer 0, to which a
judge may well give 3.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit

from look_again.data.fields import check_text, short
from look_again.data.hub_datasets import find_folder
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
from look_again.evaluation.files.image_folders import image_folders, image_in, parse_question, record_image
from look_again.evaluation.files.layouts import Record, build_items, check_split, local_path, read_tables

HUB = "Shengcao1006/MMHal-Bench"
SPLITS = ("test",)
TEMPLATE = "response_template.json"
QUESTION_TYPES = (  # in the order in which the file repeats them
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)

_COLUMNS = ("image", "image_content", "question", "gt_answer")

TRIES = 3
HALLUCINATED_BELOW = 3
REMINDER = 'Your last reply had no single rating. Give one, in a line of the form "Rating: N".'

Metrics = dict[str, float | int | None]

_RATING = re.compile(r"\brating[\s*_`\"']*[:=][\s*_`\[(\"']*([0-6])(?![0-9]|\.[0-9])", re.IGNORECASE)
_FIELD = re.compile(r"\{\{(\w+)\}\}")


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items of a response_template.json, a folder or hub repository with one, or a table with its columns.

    Images lie in `location.images`, or beside the file in images/, under the last part of `image_src`; in a table, in
    the column image. ValueError for another layout.
    """
    check_split(location, "MMHal-Bench", SPLITS)
    path = local_path(location)
    if path is None:
        path = find_folder(location.path, [TEMPLATE, "images/*"], example=HUB)
    file = path / TEMPLATE if path.is_dir() else path
    if file.is_file() and file.suffix == ".json":
        folders = image_folders(location, file.parent, "images")
        make = partial(_item, image=partial(_file_image, folders=folders))
        return build_items(_file_records(file), make, location.limit)
    try:
        return build_items(read_tables(location, _COLUMNS), _item, location.limit)
    except ValueError as error:
        raise ValueError(f"{error}; nor is there {TEMPLATE}") from error


def _file_records(file: Path) -> Iterator[Record | SampleError]:
    """The records of the template. ValueError when it cannot be read or is no JSON list."""
    try:
        records = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"{file} is a JSON {type(records).__name__}: looked for a list of questions")
    for index, record in enumerate(records):
        yield record if isinstance(record, dict) else SampleError(str(index), f"{short(record)} is no question")


def _file_image(record: Record, name: str, folders: list[Path]) -> ImageSource:
    source = parse_question(record, "image_src", name)
    return image_in(folders, urlsplit(source).path.rpartition("/")[2] or source, name)


def _item(record: Record, index: int, image: Callable[[Record, str], ImageSource] = record_image) -> BenchmarkItem:
    name = str(index)
    contents = record.get("image_content")
    if not isinstance(contents, list):
        raise SampleError(name, f"image_content is {short(contents)}: a list of texts is needed")
    facts = {
        "question_type": _question_type(record.get("question_type"), index),
        "image_content": [check_text(text, name, "image_content") for text in contents],
    }
    return BenchmarkItem(
        id=name,
        prompt=parse_question(record, "question", name),
        reference=parse_question(record, "gt_answer", name),
        images=(image(record, name),),
        facts=facts,
    )


def _question_type(value: object, index: int) -> str:
    """As the record says; where it says nothing, by its place, as the official script counts."""
    if value is None:
        return QUESTION_TYPES[index % len(QUESTION_TYPES)]
    if value not in QUESTION_TYPES:
        raise SampleError(str(index), f"question_type is {short(value)}: use one of {', '.join(QUESTION_TYPES)}")
    return str(value)


@dataclass(frozen=True)
class Verdict:
    """What the judge made of an answer. rating: None where no reply named one. said: its last reply, or its failure."""

    rating: int | None
    said: str
    tries: int


@cache
def rubric() -> str:
    """The judge's instructions, with fields `{{contents}}`, `{{question}}`, `{{reference}}` and `{{answer}}`."""
    return (files("look_again") / "assets" / "mmhal_judge.md").read_text(encoding="utf-8").strip()


def judge_prompt(item: BenchmarkItem, answer: str) -> str:
    """The rubric about one answer. Braces in the answer stay what they are."""
    fields = {
        "contents": ", ".join(item.facts["image_content"]),
        "question": item.prompt,
        "reference": item.reference,
        "answer": answer.strip(),
    }
    return _FIELD.sub(lambda field: fields[field[1]], rubric())


def read_rating(reply: str) -> int | None:
    """The one rating from 0 to 6 that a judge's reply names; None for none and for several different ones.

    Example: "Two dogs are invented.\\nRating: 2" is 2; "Rating: 3 or Rating: 4" and "Rating: 10" are None.
    """
    ratings = set(_RATING.findall(reply))
    return int(ratings.pop()) if len(ratings) == 1 else None


def ask(judge: Judge, prompt: str) -> Verdict:
    """The judge's verdict; asked up to `TRIES` times for a rating, from the second on with a reminder of the form.

    A judge that gives no reply at all (OSError, TimeoutError) has tried long enough itself and is not asked again.
    """
    said = ""
    for attempt in range(1, TRIES + 1):
        try:
            said = judge(prompt if attempt == 1 else f"{prompt}\n\n{REMINDER}")
        except OSError as error:
            return Verdict(None, f"no reply: {error}", attempt)
        if (rating := read_rating(said)) is not None:
            return Verdict(rating, said, attempt)
    return Verdict(None, said, TRIES)


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None) -> Scores:
    """Mean ratings and hallucination rates, and the same per type of question. ValueError without a judge."""
    if judge is None:
        raise ValueError("mmhal is scored by a judge: name an endpoint that judges")
    scores = [
        _item_score(ask(judge, judge_prompt(item, reply.final)), reply.final)
        for item, reply in zip(items, replies, strict=True)
    ]
    kinds = [item.facts["question_type"] for item in items]
    groups = {kind: [one for one, its in zip(scores, kinds, strict=True) if its == kind] for kind in QUESTION_TYPES}
    return Scores(
        items=scores,
        metrics=summarise(scores),
        subsets={f"question_type/{kind}": summarise(group) for kind, group in groups.items() if group},
        notes=_notes(),
    )


def summarise(scores: Sequence[ItemScore]) -> Metrics:
    """Mean ratings from 0 to 6 and shares of hallucinated answers; None of no answers, and where none was judged."""
    judged = [one for one in scores if one.facts["rating"] is not None]
    official = [one.official or 0.0 for one in scores] if judged else []
    strict = [one.strict or 0.0 for one in scores] if judged else []
    ratings = [one.official or 0.0 for one in judged]
    rows = {"": official, "strict_": strict, "judged_": ratings}
    metrics: Metrics = {}
    for name, values in rows.items():
        metrics[f"{name}score"] = share(sum(values), len(values))
        metrics[f"{name}hallucination_rate"] = share(sum(v < HALLUCINATED_BELOW for v in values), len(values))
    counts = {"unjudged": len(scores) - len(judged), "unparsed": sum(one.unparsed for one in scores)}
    return metrics | counts | {"items": len(scores)}


def _item_score(verdict: Verdict, answer: str) -> ItemScore:
    rating, empty = verdict.rating, not answer.strip()
    return ItemScore(
        official=None if rating is None else float(rating),
        strict=None if rating is None else 0.0 if empty else float(rating),
        extracted=rating,
        unparsed=empty,
        unjudged=verdict.said if rating is None else None,
        facts={
            "rating": rating,
            "hallucinated": None if rating is None else int(rating < HALLUCINATED_BELOW),
            "judge_said": verdict.said,
            "judge_tries": verdict.tries,
        },
    )


def _notes() -> Mapping[str, str]:
    digest = hashlib.sha256(rubric().encode()).hexdigest()[:12]
    return {
        "judge": f"by LookAgain's assets/mmhal_judge.md, version {digest}; asked up to {TRIES} times for a rating",
        "official": f"an answer without a rating is 0; a rating below {HALLUCINATED_BELOW} is a hallucination",
        "unjudged": "an answer without a rating is left out of judged_… and of comparisons",
        "strict": "an empty answer is 0 and a hallucination, whatever the judge says",
    }


MMHAL = Benchmark(
    name="mmhal",
    hub=HUB,
    splits=SPLITS,
    load=load,
    score=score,
    primary="score",
    paired="rating",
    needs_judge=True,
)
