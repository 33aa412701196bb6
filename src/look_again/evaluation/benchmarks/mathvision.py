r"""MathVision (MATH-V): competition problems about one image each, with options or with a free-form answer.

The paper reports test, and trains on MathVision too; a model trained on `train` of this project's loader is to be
evaluated on testmini alone (`look_again.data.splits`). The official score takes the answer from `\boxed{…}` or behind
"the answer is" as MATH-V does, and equals it with the letter, with the option's text or with the free-form answer, as
written or to two decimals (`mathv_rule`). `verified_accuracy` also takes units off, and lets math-verify (extra "eval")
decide whether expressions are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from string import ascii_uppercase

from look_again.data.fields import check_text, option_texts, parse_image, reference_text
from look_again.data.image_files import ImageSource
from look_again.data.readers import read_jsonl
from look_again.data.sample import BadSample, Sample
from look_again.data.sources.mathvision import readable, with_named_images
from look_again.data.zips import ZipMember
from look_again.evaluation.benchmark import Benchmark, BenchmarkItem, DataLocation, ItemScore, Judge, ModelReply, Scores
from look_again.evaluation.benchmarks.choices import (
    LETTER_INSTRUCTION,
    STRICT_RULE,
    mean,
    reference_letter,
    summarise_choices,
)
from look_again.evaluation.benchmarks.mathv_rule import mathv_answer, mathv_right
from look_again.evaluation.benchmarks.mathvision_answers import (
    official_answer,
    official_match,
    settled,
    strict_answer,
    strict_match,
)
from look_again.evaluation.benchmarks.open_answers import usable_answer
from look_again.evaluation.files.layouts import (
    Record,
    build_item,
    build_items,
    check_split,
    label,
    local_path,
    read_tables,
    row_id,
    with_columns,
)

SPLITS = ("test", "testmini")
INSTRUCTION = "Give the final answer as a number or an expression, without its unit."

MAX_SHOWN = 200  # characters of the official reading that results keep

_COLUMNS = ("id", "question", "options", "answer", "image")
_ARCHIVE = "images.zip"


def load(location: DataLocation) -> Iterator[BenchmarkItem | BadSample]:
    """The items of a split: the hub's, a table's, or those of the authors' repository.

    A folder holds `<split>-….parquet`, or the same in `data`, or `<split>.jsonl` or `data/<split>.jsonl` beside
    `images/` or `images.zip`; a file is Parquet or JSON lines. Marks such as `<image2>`, which name a part of the one
    image, become "(image 2)" within a sentence and go outside of any. ValueError for other layouts.
    """
    check_split(location, "MathVision", SPLITS)
    lines = _lines_file(location)
    if lines is None:
        try:
            return build_items(
                read_tables(location, _COLUMNS), lambda record, index: _item(record, index, None), location.limit
            )
        except ValueError as error:
            raise ValueError(f"{error}; and {location.split}.jsonl, data/{location.split}.jsonl") from error
    beside = lines.parent.parent if lines.parent.name == "data" else lines.parent
    base = (location.images or beside).expanduser()
    records = with_columns(read_jsonl(lines), _COLUMNS, str(lines))
    return build_items(records, lambda record, index: _item(record, index, base), location.limit)


def _lines_file(location: DataLocation) -> Path | None:
    path = local_path(location)
    if path is None:
        return None
    candidates = (path, path / f"{location.split}.jsonl", path / "data" / f"{location.split}.jsonl")
    return next((file for file in candidates if file.suffix == ".jsonl" and file.is_file()), None)


def _item(record: Record, index: int, base: Path | None) -> BenchmarkItem:
    name = row_id(record, "id", index)
    options = tuple(with_named_images(text) for text in option_texts(record.get("options"), name))
    answer = reference_text(record.get("answer"), bool(options), name, "answer")
    row = Sample(
        id=name,
        images=(_image(record, name, base),),
        question=readable(check_text(record.get("question"), name, "question")),
        options=options,
        reference=reference_letter(answer, options, name) if options else usable_answer(answer.strip(), name),
        source="mathvision",
    )
    groups = {"subject": label(record, "subject"), "level": str(record.get("level") or "unknown")}
    return build_item(row, LETTER_INSTRUCTION if options else INSTRUCTION, **groups)


def _image(record: Record, name: str, base: Path | None) -> ImageSource:
    """A table's decoded image; else the file "images/4.jpg" or "4.jpg" in `base`, or a member of its `images.zip`."""
    if record.get("decoded_image") is not None:
        return parse_image(record["decoded_image"], name, "decoded_image", None)
    image = parse_image(record.get("image"), name, "image", base)
    if base is None or not isinstance(image, Path) or image.is_file():
        return image
    if (base / image.name).is_file():
        return base / image.name
    archive = base.absolute() / _ARCHIVE
    return ZipMember(archive, str(record["image"])) if archive.is_file() else image


def score(items: Sequence[BenchmarkItem], replies: Sequence[ModelReply], judge: Judge | None = None) -> Scores:
    """Accuracies of the whole, per subject and per level. No judge is asked.

    MissingExtraError without math-verify, whatever the replies are.
    """
    taken = [mathv_answer(reply.final) for reply in replies]
    official = [mathv_right(answer, _targets(item)) for answer, item in zip(taken, items, strict=True)]
    read = [strict_answer(r.final, i.reference, i.facts["options"]) for i, r in zip(items, replies, strict=True)]
    matches = [
        official_match(official_answer(reply.final), _targets(item)) for reply, item in zip(replies, items, strict=True)
    ]
    right = settled([*matches, *(strict_match(found, i.reference) for found, i in zip(read, items, strict=True))])
    scores = [
        ItemScore(
            official=float(official[at]),
            strict=float(right[len(items) + at]),
            extracted=read[at],
            unparsed=read[at] is None,
            facts={"official_answer": taken[at][:MAX_SHOWN], "verified": float(right[at])},
        )
        for at in range(len(items))
    ]
    notes = {
        "official": "MATH-V evaluation/evaluate.py at a1f5cc3 (May 2025): as written, or equal values to two decimals",
        "verified_accuracy": "the same answer compared without unit and dressing, expressions by math-verify",
        "strict": f"{STRICT_RULE}; free-form: the one number or expression given, by math-verify where needed",
    }
    verified = mean([float(one.facts["verified"]) for one in scores])
    return summarise_choices(items, scores, ("subject", "level"), notes, verified_accuracy=verified)


def _targets(item: BenchmarkItem) -> list[str]:
    """What the official rule takes for right: the letter and the text of its option, or the answer."""
    options = item.facts["options"]
    return [item.reference, options[ascii_uppercase.index(item.reference)]] if options else [item.reference]


MATHVISION = Benchmark(
    name="mathvision",
    hub="MathLLMs/MathVision",
    splits=SPLITS,
    load=load,
    score=score,
    primary="accuracy",
    max_new_tokens=4096,
)
