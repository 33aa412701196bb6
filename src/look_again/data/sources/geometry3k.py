"""Geometry3K (Inter-GPS, Lu et al., 2021): school geometry with a diagram.

Layouts read:
- the hub set hiyouga/geometry3k, or its folder: `images`, `problem` (with `<image>`), `answer` (dataset card). These
  questions are asked openly, as its users train on them: the columns `choices` and `ground_truth` of newer versions,
  the same answer as a letter, are not shown;
- the original of github.com/lupantech/InterGPS: `<split>/<number>/data.json` beside `img_diagram.png`, splits `train`,
  `val` and `test`; `path` is the folder that holds them. These are asked with their `choices`, and the reference is the
  letter in `answer`. Of the question's three spellings `annotat_text` is taken, which has LaTeX and which the hub set
  was made from (its card's script), else `compact_text`, else `problem_text`.

The split `validation` is the original's `val`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from look_again.data.fields import check_text
from look_again.data.hub_datasets import read_data_set
from look_again.data.readers import read_json
from look_again.data.records import Record
from look_again.data.references import question_samples
from look_again.data.sample import Sample, SampleError
from look_again.data.source import Source

DIAGRAM = "img_diagram.png"
TEXTS = ("annotat_text", "compact_text", "problem_text")


def geometry3k_samples(source: Source) -> Iterator[Sample | SampleError]:
    """Samples of a split; bad records as SampleErrors. ValueError where no layout is found."""
    folder = source.local_path / {"validation": "val"}.get(source.split, source.split)
    if any(folder.glob("*/data.json")):
        base = source.base(folder)
        return question_samples(_folders(folder), _original, source="geometry3k", split=source.split, base=base)
    records = read_data_set(source.path, source.split, looked_for=f"a folder {folder} of <number>/data.json")
    base = source.base(source.local_path if source.local_path.is_dir() else None)
    return question_samples(records, _published, source="geometry3k", split=source.split, base=base)


def _folders(split: Path) -> Iterator[Record | SampleError]:
    problems = (path for path in split.iterdir() if path.is_dir())
    for folder in sorted(problems, key=lambda path: (len(path.name), path.name)):
        record = read_json(folder / "data.json", f"geometry3k-{folder.name}")
        yield record if isinstance(record, SampleError) else {**record, "id": folder.name}


def _original(record: Record, row_id: str) -> Record:
    text = next((record[name] for name in TEXTS if record.get(name)), None)
    return {
        "question": check_text(text, row_id, TEXTS[0]),
        "image": f"{record['id']}/{DIAGRAM}",
        "options": record.get("choices"),
        "reference": record.get("answer"),
    }


def _published(record: Record, row_id: str) -> Record:
    return {
        "question": check_text(record.get("problem"), row_id, "problem"),
        "images": record.get("images"),
        "reference": record.get("answer"),
    }
