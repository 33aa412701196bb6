r"""MATH (Hendrycks et al., 2021): competition problems with worked solutions, text only.

Layouts read:
- the original archive: `MATH/<split>/<subject>/<number>.json` with `problem`, `level`, `type`, `solution`, as read by
  github.com/hendrycks/math (`modeling/dataset/MATH.py`); `path` is the folder that holds `train` and `test`;
- hub sets with the same four columns: DigitalLearningGmbH/MATH-lighteval, whose configuration `default` holds all
  subjects, and EleutherAI/hendrycks_math, which has one configuration per subject (their dataset cards).

`name` picks one subject in either; without it all are read. The reference is the content of the last `\boxed{}` or
`\fbox{}` of the solution, which is what the authors' own code takes; `\boxed 7` without braces, which occurs, counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from look_again.data.fields import check_text
from look_again.data.hub_datasets import read_configurations
from look_again.data.readers import read_json
from look_again.data.records import Record
from look_again.data.references import question_samples
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source
from look_again.scoring.grading import boxed

_BOX = re.compile(r"\\(?:boxed|fbox)\s*(?:\{|([^\s{}$]+))")


def math_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of the folder or hub set; SampleErrors for records without a boxed answer. ValueError without either."""
    folder = source.local_path / source.split
    records: Iterator[Record | SampleError]
    if any(folder.glob("*/*.json")):
        records = _files(folder, source.name)
    else:
        looked_for = f"a folder {folder} of <subject>/<number>.json"
        records = read_configurations(source.path, source.split, source.name, looked_for=looked_for)
    return question_samples(records, _shape, source="math", split=source.split, base=None, needs_image=False)


def _files(folder: Path, subject: str | None) -> Iterator[Record | SampleError]:
    subjects = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if subject is not None and subject not in subjects:
        raise ValueError(f"{folder} has no subject {subject!r}: it has {', '.join(subjects)}")
    for name in subjects if subject is None else [subject]:
        for file in sorted((folder / name).glob("*.json"), key=lambda path: (len(path.stem), path.stem)):
            record = read_json(file, f"math-{folder.name}-{name}-{file.stem}")
            yield record if isinstance(record, SampleError) else {**record, "id": f"{folder.name}-{name}-{file.stem}"}


def _shape(record: Record, row_id: str) -> Record:
    answer = last_boxed(check_text(record.get("solution"), row_id, "solution"))
    if not answer:
        raise SampleError(row_id, r"the solution has no \boxed{} answer that closes")
    return {"question": check_text(record.get("problem"), row_id, "problem"), "reference": answer}


def last_boxed(solution: str) -> str | None:
    r"""The answer in the last `\boxed{…}`, `\fbox{…}` or `\boxed …` of a solution; None where there is none."""
    braced = _BOX.sub(lambda box: r"\boxed{" + (f"{box[1].rstrip('.,')}}}" if box[1] else ""), solution)
    return (boxed(braced) or "").strip() or None
