r"""MATH in the archive's layout and in the hub's two; the reference is the last \boxed{}."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from look_again.data.sources.hendrycks_math import last_boxed
from tests.data.sources.mixture_rows import load, right, table


def record(solution: str, problem: str = "Find $x$.") -> dict[str, str]:
    return {"problem": problem, "level": "Level 2", "type": "Algebra", "solution": solution}


def write(folder: Path, subject: str, number: int, content: Any, split: str = "train") -> None:
    file = folder / split / subject / f"{number}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"So $x=\boxed{\frac{1}{2}}$.", r"\frac{1}{2}"),
        (r"Not \boxed{1}, but \boxed{2}.", "2"),
        (r"Hence \fbox{7}.", "7"),
        (r"We get $\boxed 4$ in all.", "4"),
        (r"We get \boxed 4.", "4"),
        (r"$\boxed{ \sqrt{3} }$", r"\sqrt{3}"),
        (r"$\boxed{3", None),
        (r"$\boxed{}$", None),
        ("So 3.", None),
    ],
)
def test_reference_is_the_last_box(solution: str, answer: str | None) -> None:
    """The first box may hold a step; a solution graded as a whole would fail every answer."""
    assert last_boxed(solution) == answer


def test_archive(tmp_path: Path) -> None:
    """Files by number, not by name: a limit must not take 1, 10, 100 first."""
    for number in (10, 2, 1):
        write(tmp_path, "algebra", number, record(rf"\boxed{{{number}\sqrt{{2}}}}", f"Problem {number}"))
    write(tmp_path, "geometry", 1, record(r"\boxed{12}"))
    write(tmp_path, "algebra", 1, record(r"\boxed{9}"), split="test")
    rows, bad = load("math", tmp_path)
    assert [row.id for row in rows] == [
        "math-train-algebra-1",
        "math-train-algebra-2",
        "math-train-algebra-10",
        "math-train-geometry-1",
    ]
    assert (rows[2].question, rows[2].reference, rows[2].images) == ("Problem 10", r"10\sqrt{2}", ())
    assert right(rows[2], r"$\sqrt{200}$")
    assert not right(rows[3], "13")
    assert not bad
    assert [row.id for row in load("math", tmp_path, name="geometry")[0]] == ["math-train-geometry-1"]
    with pytest.raises(ValueError, match="no subject 'logic': it has algebra, geometry"):
        load("math", tmp_path, name="logic")


def test_broken_files_are_row_errors(tmp_path: Path) -> None:
    write(tmp_path, "algebra", 1, record("So 3."))
    write(tmp_path, "algebra", 2, '{"problem": "cut')
    write(tmp_path, "algebra", 3, {"problem": "Q", "level": "Level 1"})
    write(tmp_path, "algebra", 4, {"solution": r"\boxed{1}"})
    write(tmp_path, "algebra", 5, record(rf"\boxed{{{'1+' * 300}1}}"))
    write(tmp_path, "algebra", 6, record(r"\boxed{5}"))
    rows, bad = load("math", tmp_path)
    assert [row.id for row in rows] == ["math-train-algebra-6"]
    reasons = [bad[f"math-train-algebra-{number}"] for number in range(1, 6)]
    for reason, expected in zip(
        reasons, [r"no \boxed{}", "not JSON", "solution is None", "problem is None", "601 characters"], strict=True
    ):
        assert expected in reason


def test_test_split_is_refused_unless_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "algebra", 1, record(r"\boxed{9}"), split="test")
    with pytest.raises(ValueError, match="split 'test' of math is what benchmarks evaluate on: use train, or"):
        load("math", tmp_path, split="test")
    assert load("math", tmp_path, split="test", on_benchmark="allow")[0][0].reference == "9"


def test_tables_of_the_hub(tmp_path: Path) -> None:
    table(
        tmp_path / "data" / "train-00000-of-00001.parquet",
        [record(r"\boxed{1}"), record("none"), record("$\\boxed 3$")],
    )
    rows, bad = load("math", tmp_path)
    assert [(row.id, row.reference) for row in rows] == [("math-train-0", "1"), ("math-train-2", "3")]
    assert list(bad) == ["math-train-1"]


def test_subjects_that_are_configurations_are_all_read(tmp_path: Path, monkeypatch) -> None:
    """EleutherAI/hendrycks_math has no default: the library would refuse it without a name."""
    asked = []

    def load_dataset(path: str, name: str | None, split: str) -> datasets.Dataset:
        asked.append((path, name, split))
        return datasets.Dataset.from_list([record(rf"\boxed{{{len(asked)}}}")])

    names = ["algebra", "geometry"]
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: names)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    rows, _ = load("math", "EleutherAI/hendrycks_math")
    assert [(row.id, row.reference) for row in rows] == [("math-train-0", "1"), ("math-train-1", "2")]
    names.append("default")
    load("math", "DigitalLearningGmbH/MATH-lighteval")
    load("math", "EleutherAI/hendrycks_math", name="algebra")
    assert [name for _, name, _ in asked] == ["algebra", "geometry", None, "algebra"]


def test_what_was_looked_for_is_said(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", "no/such-set"):
        with pytest.raises(ValueError, match=r"cannot be loaded.*nor is there a folder .*of <subject>/<number>\.json"):
            load("math", path)
