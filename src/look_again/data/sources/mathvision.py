"""MathVision (MATH-V, Wang et al., 2024): competition questions about one image each.

Layouts read:
- the hub set MathLLMs/MathVision, or its folder: tables `data/test-*` and `data/testmini-*` with `id`, `question`,
  `options`, `image` (a path), `decoded_image` (the image), `answer`, `solution`, `level`, `subject` (dataset card);
- the authors' repository github.com/mathllm/MATH-V: `data/<split>.jsonl` with the same columns but `decoded_image`, and
  `images/<number>.jpg`.

It has no training split. `train` is made here: the rows of `test` whose id is not in `testmini` (ids agree between the
two, as the repository's files show); without `testmini` nothing is given. `look_again.data.splits` says what this means
for an evaluation.

A question marks places of the one image by `<image1>`, `<image2>`, …: marks on a line of their own or at the end of a
sentence are removed, and one inside a sentence reads "(image 2)", since the sentence would lose its object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from look_again.data.fields import check_text
from look_again.data.hub_datasets import read_data_set
from look_again.data.readers import read_jsonl
from look_again.data.records import Record
from look_again.data.references import question_samples
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source

_PLACED = re.compile(r"(?m)(?:^|(?<=[.?!:]))[ \t]*(?:<image\d+>[ \t]*)+$")
_NAMED = re.compile(r"<image(\d+)>")


def mathvision_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a split; bad records as SampleErrors. ValueError where no layout is found."""
    records = _without_testmini(source) if source.split == "train" else _records(source, source.split)
    base = source.base(source.local_path if source.local_path.is_dir() else None)
    return question_samples(records, _shape, source="mathvision", split=source.split, base=base)


def _without_testmini(source: Source) -> Iterator[Record | SampleError]:
    held_out = {record.get("id") for record in _records(source, "testmini") if not isinstance(record, SampleError)}
    if held_out <= {None}:
        raise ValueError(f"testmini of {source.path} has no ids, so it cannot be kept out of train: download it again")
    for record in _records(source, "test"):
        if isinstance(record, SampleError) or record.get("id") not in held_out:
            yield record


def _records(source: Source, split: str) -> Iterator[Record | SampleError]:
    for file in (source.local_path / "data" / f"{split}.jsonl", source.local_path / f"{split}.jsonl"):
        if file.is_file():
            return read_jsonl(file)
    return read_data_set(source.path, split, looked_for=f"data/{split}.jsonl beside images/")


def _shape(record: Record, row_id: str) -> Record:
    image = record.get("decoded_image") or record.get("image")
    options = record.get("options")
    if isinstance(options, list | tuple):
        options = [with_named_images(option) if isinstance(option, str) else option for option in options]
    return {
        "question": readable(check_text(record.get("question"), row_id, "question")),
        "options": options,
        "image": image,
        "reference": record.get("answer"),
    }


def readable(question: str) -> str:
    """A question without the marks of where its images stand; those it speaks of become "(image 2)"."""
    lines = _PLACED.sub("", question).splitlines()
    return with_named_images("\n".join(line for line in lines if line.strip())).strip()


def with_named_images(text: str) -> str:
    """Marks as words: "<image2>" becomes "(image 2)"."""
    return _NAMED.sub(r"(image \1)", text)
