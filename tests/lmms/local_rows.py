"""Tables as the hub has them, with images and questions of Tabletop, and the task files that run lmms-eval on them.

The task files leave out what tasks add to their questions, since the shipped model knows Tabletop's words alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import lmms_eval.tasks

from look_again.tabletop.render import render
from look_again.tabletop.samples import TabletopSample, make_sample

TASKS = Path(lmms_eval.tasks.__file__).parent
TEXT = datasets.Value("string")
YES_OR_NO = (2, 3, 8)
"""Tabletop's rows that ask "Is there ...?" and "Are there more ...?", briefly."""

Table = tuple[dict[str, Any], list[dict[str, Any]]]
"""Features and rows."""


def tabletop(index: int) -> TabletopSample:
    return make_sample("test", 0, index)


def image(index: int) -> dict[str, Any]:
    """The image of a Tabletop row, as the image feature of `datasets` stores it."""
    file = io.BytesIO()
    render(tabletop(index).scene).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def pope_table() -> Table:
    names = ("id", "question_id", "question", "answer", "image_source", "category")
    rows = [
        {
            "id": str(at),
            "question_id": str(at + 1),
            "question": tabletop(index).prompt,
            "answer": tabletop(index).answer,
            "image_source": f"COCO_val2014_{index:012}",
            "image": image(index),
            "category": kind,
        }
        for at, (index, kind) in enumerate(zip(YES_OR_NO, ("adversarial", "popular", "random"), strict=True))
    ]
    return dict.fromkeys(names, TEXT) | {"image": datasets.Image()}, rows


def mme_table() -> Table:
    """Two questions about each of two images."""
    rows = []
    for subtask, shown in (("count", 2), ("code_reasoning", 3)):
        for asked in YES_OR_NO[:2]:
            answer = tabletop(asked).question.conclude(tabletop(shown).scene.things)
            rows.append(
                {
                    "question_id": f"{subtask}/{shown}.png",
                    "question": f"{tabletop(asked).prompt} Please answer yes or no.",
                    "answer": answer.capitalize(),
                    "category": subtask,
                    "image": image(shown),
                }
            )
    return dict.fromkeys(("question_id", "question", "answer", "category"), TEXT) | {"image": datasets.Image()}, rows


def mmmu_table() -> Table:
    """Open questions; the last one shows its two images within the text."""
    texts = ("id", "question", "options", "explanation", "img_type", "answer", "topic_difficulty", "question_type")
    features = dict.fromkeys((*texts, "subfield"), TEXT) | {f"image_{n}": datasets.Image() for n in range(1, 8)}
    empty = dict.fromkeys(features) | {"options": "[]", "question_type": "open"}
    questions = [(f"<image 1> {tabletop(index).prompt}", index) for index in YES_OR_NO[:2]]
    questions.append((f"{tabletop(8).prompt} <image 1> And <image 2>?", 8))
    rows = [
        empty | {"id": f"validation_Math_{at}", "question": text, "answer": tabletop(index).answer}
        | {"image_1": image(index), "image_2": image(index + 1) if "<image 2>" in text else None}
        for at, (text, index) in enumerate(questions, start=1)
    ]  # fmt: skip
    return features, rows


def mmstar_table() -> Table:
    texts = dict.fromkeys(("question", "answer", "category", "l2_category"), TEXT)
    groups = [("math", "geometry"), ("coarse perception", "image emotion"), ("math", "statistical reasoning")]
    rows = [
        {
            "index": at,
            "question": tabletop(index).prompt,
            "answer": "ABC"[at],
            "category": category,
            "l2_category": l2_category,
            "image": image(index),
        }
        for at, (index, (category, l2_category)) in enumerate(zip(YES_OR_NO, groups, strict=True))
    ]
    return {"index": datasets.Value("int64"), **texts, "image": datasets.Image()}, rows


NOTHING_AROUND = "{default: {pre_prompt: '', post_prompt: ''}}"
TABLES: dict[str, tuple[str, str, Callable[[], Table], str]] = {
    "pope": ("pope/pope.yaml", "data/test-00000-of-00003.parquet", pope_table, NOTHING_AROUND),
    "mme": ("mme/mme.yaml", "data/test-00000-of-00004.parquet", mme_table, "{default: {post_prompt: ' '}}"),
    "mmmu_val": (
        "mmmu/mmmu_val.yaml",
        "data/validation-00000-of-00001.parquet",
        mmmu_table,
        "{default: {prompt_type: format, multiple_choice_prompt: '', open_ended_prompt: ''}}",
    ),
    "mmstar": ("mmstar/mmstar.yaml", "data/val-00000-of-00001.parquet", mmstar_table, NOTHING_AROUND),
}
"""Task -> its file in lmms-eval, the name of its table, what fills that, and what is asked around a question."""


def write_samples(folder: Path, task: str) -> Path:
    """The task's table in its layout; returns the folder that is its data set."""
    _, name, make, _ = TABLES[task]
    features, rows = make()
    table = folder / task / name
    table.parent.mkdir(parents=True)
    datasets.Dataset.from_list(rows, features=datasets.Features(features)).to_parquet(table)
    return folder / task


def write_task(folder: Path, task: str, rows: Path) -> str:
    """The lines that make lmms-eval run a task on local rows; returns the task's new name."""
    file, *_, around = TABLES[task]
    lines = {
        "include": TASKS / file,
        "task": f"{task}_local",
        "dataset_path": rows,
        "dataset_name": "null",
        "dataset_kwargs": "{}",
        "lmms_eval_specific_kwargs": around,
    }
    folder.mkdir(exist_ok=True)
    (folder / f"{task}_local.yaml").write_text("".join(f"{name}: {value}\n" for name, value in lines.items()))
    return f"{task}_local"
