"""lmms-eval's own command on local rows of four tasks, with the shipped model by the entry point, offline."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import look_again
from look_again.evaluation.benchmark import BenchmarkItem, DataLocation, ModelReply
from look_again.evaluation.known_benchmarks import benchmark
from look_again.model import Sampling
from tests.lmms.local_rows import TABLES, YES_OR_NO, image, tabletop, write_samples, write_task

BUDGET = 200  # more than POPE's 128 and MME's 16
ARGUMENTS = f"reattention=route,keep=25,max_new_tokens={BUDGET}"
OURS = {"pope": "pope", "mme": "mme", "mmmu_val": "mmmu", "mmstar": "mmstar"}
METRICS = {  # of lmms-eval -> ours
    "pope": {"pope_accuracy": "accuracy"},
    "mme": {"mme_perception_score": "perception", "mme_cognition_score": "cognition"},
    "mmmu_val": {"mmmu_acc": "accuracy"},
    "mmstar": {"average": "l2_average"},
}
ASKED = {
    "pope": [([index], tabletop(index).prompt) for index in YES_OR_NO],
    "mme": [([shown], f"{tabletop(asked).prompt} ") for shown in YES_OR_NO[:2] for asked in YES_OR_NO[:2]],
    "mmmu_val": [
        *(([index], tabletop(index).prompt) for index in YES_OR_NO[:2]),
        ([8, 9], f"{tabletop(8).prompt}\n[image 1]\nAnd\n[image 2]\n?"),
    ],
    "mmstar": [([index], tabletop(index).prompt) for index in YES_OR_NO],
}
"""What each row asks, by hand: images and text."""


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    folder = tmp_path_factory.mktemp("rows")
    return {task: write_samples(folder, task) for task in TABLES}


@pytest.fixture(scope="module")
def run(tables: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run over all four tasks; the folder of its results."""
    folder = tmp_path_factory.mktemp("lmms")
    names = [write_task(folder / "tasks", task, rows) for task, rows in tables.items()]
    out, tasks = str(folder / "out"), str(folder / "tasks")
    command = [sys.executable, "-m", "lmms_eval", "--model", "look_again", "--model_args", ARGUMENTS, "--device", "cpu"]
    command += ["--tasks", ",".join(names), "--include_path", tasks, "--batch_size", "3", "--output_path", out]
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--log_samples"], env=os.environ | offline, capture_output=True, text=True, cwd=folder
    )
    assert done.returncode == 0, done.stderr[-5000:]
    assert list((folder / "out").rglob("*_results.json")), (done.stdout + done.stderr)[-5000:]
    return folder / "out"


def replies(run: Path, task: str) -> list[str]:
    """What lmms-eval scored, row by row."""
    (file,) = run.rglob(f"*_samples_{task}_local.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [row["filtered_resps"] for row in sorted(rows, key=lambda row: row["doc_id"])]


def scores(run: Path, task: str) -> dict[str, Any]:
    (file,) = run.rglob("*_results.json")
    found = json.loads(file.read_text())["results"][f"{task}_local"]
    return {name: found[f"{name},none"] for name in METRICS[task]}


@pytest.fixture(scope="module")
def model() -> look_again.LookAgain:
    return look_again.load()


@pytest.mark.parametrize("task", TABLES)
def test_what_is_scored_is_the_conclusion_of_the_same_answer(run: Path, model: Any, task: str) -> None:
    """A batch, 16 tokens or `until` changing an answer; reasoning handed to a scorer; images mixed up."""
    policy = look_again.Reattention(mode="route", keep=25)
    concluded = 0
    said = replies(run, task)
    for (pictures, question), reply in zip(ASKED[task], said, strict=True):
        images = [image(index)["bytes"] for index in pictures]
        answer = model.ask(images, question, reattention=policy, sampling=Sampling(max_new_tokens=BUDGET))
        concluded += answer.answer is not None
        assert reply == (answer.answer or answer.response).strip()
    assert concluded >= 2, said


@pytest.mark.parametrize("task", TABLES)
def test_both_score_the_same_table_and_replies_alike(tables: Mapping[str, Path], run: Path, task: str) -> None:
    """One table read by both, one set of replies, one score; the tests of agreement have the differences in rules."""
    ours = benchmark(OURS[task])
    items = list(ours.load(DataLocation(path=str(tables[task]), split=ours.splits[0])))
    assert all(isinstance(item, BenchmarkItem) for item in items)
    found = ours.score(items, [ModelReply(text) for text in replies(run, task)], None)
    expected = {name: found.metrics[metric] for name, metric in METRICS[task].items()}
    assert scores(run, task) == pytest.approx(expected, abs=1e-5)


def test_the_shipped_model_answers(run: Path) -> None:
    """Scores of nothing but zeros would agree with any broken loader."""
    assert scores(run, "pope")["pope_accuracy"] == 1
    assert scores(run, "mmmu_val")["mmmu_acc"] > 0
