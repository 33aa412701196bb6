"""Every benchmark through the command, offline, with the shipped model, on rows written in the published layout.

Answers are cut off after a few tokens, so nothing is right but by chance: tested is the way from files to report.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from look_again.commands.main import main
from look_again.evaluation.benchmarks.pope import KINDS
from look_again.evaluation.known_benchmarks import BENCHMARKS, benchmark
from tests.evaluation.benchmarks import (
    test_mathvision,
    test_mmbench,
    test_mme,
    test_mmhal,
    test_mmmu,
    test_mmmu_pro,
    test_mmstar,
    test_pope,
)
from tests.evaluation.benchmarks.question_tables import png, write_table
from tests.evaluation.small_endpoint import answering

TOKENS = 6


def mmmu(folder: Path) -> None:
    rows = [test_mmmu.row(), test_mmmu.row("validation_Accounting_2", options="[]", question_type="open", answer="12")]
    write_table(folder / "Accounting" / "validation-00000-of-00001.parquet", *rows)
    broken = test_mmmu.row("validation_Art_1", image_1={"bytes": b"no picture", "path": None})
    write_table(folder / "Art" / "validation-00000-of-00001.parquet", broken)


def mmbench(folder: Path) -> None:
    folder.mkdir()
    test_mmbench.write_tsv(folder / test_mmbench.TABLE, *test_mmbench.copies())


def mmstar(folder: Path) -> None:
    write_table(folder / "mmstar.parquet", test_mmstar.row(), test_mmstar.row(1))


def mathvision(folder: Path) -> None:
    for name in ("data", "images"):
        (folder / name).mkdir(parents=True)
    lines = [test_mathvision.row(), test_mathvision.choice()]
    (folder / "data" / "test.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for line in lines:
        (folder / line["image"]).write_bytes(png())


def chair(folder: Path) -> None:
    for name in ("annotations", "val2014"):
        (folder / name).mkdir(parents=True)
    images = [{"id": at, "file_name": f"COCO_val2014_{at:012}.jpg"} for at in (42, 73, 74)]
    instances = {
        "images": images,
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [{"image_id": 42, "category_id": 18}],
    }
    captions = {"annotations": [{"image_id": 42, "caption": "A man."}, {"image_id": 73, "caption": "Sky."}]}
    for kind, content in (("instances", instances), ("captions", captions)):
        (folder / "annotations" / f"{kind}_val2014.json").write_text(json.dumps(content))
    for image in images[:2]:  # the third is missing
        (folder / "val2014" / image["file_name"]).write_bytes(png())


def pope(folder: Path) -> None:
    for name in ("coco", "val2014"):
        (folder / name).mkdir(parents=True)
    (folder / "val2014" / test_pope.line(1)["image"]).write_bytes(png())
    for kind in KINDS:
        (folder / "coco" / f"coco_pope_{kind}.json").write_text(f"{json.dumps(test_pope.line(1))}\n")


def mme(folder: Path) -> None:
    (folder / "count").mkdir(parents=True)
    (folder / "count" / "1.txt").write_text(test_mme.QUESTIONS)
    (folder / "count" / "1.png").write_bytes(png())


def mmhal(folder: Path) -> None:
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "a_o.jpg").write_bytes(png())
    records = [test_mmhal.question(), test_mmhal.question(kind=None)]
    (folder / "response_template.json").write_text(json.dumps(records))


@dataclass(frozen=True)
class Case:
    """What writes a folder, what is asked of it, and what is left out. arguments: further ones of the command."""

    write: Callable[[Path], Any] | None
    items: int
    bad_rows: int = 0
    metrics: tuple[str, ...] = ("accuracy", "strict_accuracy")
    arguments: tuple[str, ...] = field(default=())


CASES: Mapping[str, Case] = {
    "tabletop": Case(None, 2, arguments=("--n", "2", "--no-planted"), metrics=("accuracy",)),
    "tabletop-planted": Case(None, 2, arguments=("--n", "2"), metrics=("mended",)),
    "tabletop-clips": Case(None, 2, arguments=("--n", "2"), metrics=("moves_named",)),
    "tabletop-phrased": Case(None, 2, arguments=("--n", "2")),
    "tabletop-long": Case(None, 2, arguments=("--n", "2", "--path", "seed=0,pieces=100"), metrics=("mended",)),
    "mmmu": Case(mmmu, 2, 1, ("accuracy", "strict_accuracy", "guessed")),
    "mmmu-pro": Case(test_mmmu_pro.published, 2),
    "mmmu-pro-vision": Case(test_mmmu_pro.published, 1),
    "mmbench": Case(mmbench, 4, metrics=("circular_accuracy", "strict_circular_accuracy")),
    "mmstar": Case(mmstar, 2, metrics=("accuracy", "strict_accuracy", "l2_average")),
    "mathvision": Case(mathvision, 2),
    "chair": Case(chair, 2, 1, ("chair_i", "chair_s", "recall", "words", "whole_chair_s", "strict_chair_s", "empty")),
    "pope": Case(pope, 3, metrics=("accuracy", "precision", "recall", "f1", "yes_ratio", "strict_f1")),
    "mme": Case(mme, 2, metrics=("perception", "total", "strict_total"), arguments=("--split", "count")),
    "mmhal": Case(mmhal, 2, metrics=("score", "hallucination_rate", "unjudged", "strict_score")),
}


@pytest.fixture(scope="module")
def judge() -> Iterator[str]:
    """Rates everything 2."""
    with answering(lambda body: "Nothing of it is there.\nRating: 2") as base:
        yield base


def arguments_of(name: str, case: Case, folder: Path, judge: str) -> list[str]:
    """The command's arguments, with the case's files in `folder`/data and the run in `folder`/run."""
    made = ["eval", name, "--device", "cpu", "--max-new-tokens", str(TOKENS), "--out", str(folder / "run")]
    if case.write is not None:
        case.write(folder / "data")
        made += ["--path", str(folder / "data")]
    if benchmark(name).needs_judge:
        made += ["--judge-url", judge, "--judge-model", "judge"]
    return [*made, *case.arguments]


def test_every_benchmark_has_a_case() -> None:
    assert list(CASES) == list(BENCHMARKS)


@pytest.mark.parametrize("name", CASES)
def test_from_files_to_report(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], judge: str) -> None:
    """A benchmark that is listed and cannot be run, loses rows, lacks a metric, or writes what it does not print."""
    case = CASES[name]
    assert main([*arguments_of(name, case, tmp_path, judge), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)[name]
    saved = json.loads((tmp_path / "run" / name / "result.json").read_text())
    assert printed == {key: value for key, value in saved.items() if key != "items"} | {"result": printed["result"]}
    assert (saved["counts"]["items"], saved["counts"]["bad_rows"]) == (case.items, case.bad_rows)
    assert saved["counts"]["errors"] == 0
    assert set(case.metrics) <= set(saved["metrics"])
    assert benchmark(name).primary in saved["metrics"]
    for item in saved["items"]:
        assert item["tokens"]["visual"] > 0
        assert 0 < item["tokens"]["sampled"] <= TOKENS
    assert f"<title>{name} - LookAgain</title>" in (tmp_path / "run" / name / "report.html").read_text()


def test_the_same_command_again_asks_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished run that is decoded and judged once more, or changes."""
    from look_again.model import LookAgain

    arguments = [*arguments_of("mmhal", CASES["mmhal"], tmp_path, judge), "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)["mmhal"]
    assert first["metrics"]["score"] == 2
    assert first["metrics"]["hallucination_rate"] == 1
    monkeypatch.setattr(LookAgain, "ask_batch", None)
    assert main(arguments) == 0
    again = json.loads(capsys.readouterr().out)["mmhal"]
    assert {**again, "timing": None} == {**first, "timing": None}
