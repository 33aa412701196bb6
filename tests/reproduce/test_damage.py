"""Damaged files, and results of any shape, neither stop a run for good nor hide why a stage failed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from look_again.commands.main import main
from look_again.files import write_whole
from look_again.reproduce.made import Prepared
from look_again.reproduce.plan import SeededStage
from look_again.reproduce.run_page import build_page
from look_again.reproduce.run_report import item_scores, only_finite, read_value
from look_again.reproduce.stage_process import read_end

COPY = "import sys, shutil\nshutil.copy(sys.argv[1], sys.argv[2])\n"
ITEM = {"id": "1", "strict": 1.0, "looks": 1, "text": "t", "prompt": "p", "tokens": {"visual": 4, "reinserted": 4}}


@pytest.fixture
def shown(tmp_path: Path):
    """Writes a plan whose stage makes the given bytes, which a fact, a table and the answers show; runs it."""

    def run(made: bytes, *, name: str = "r.json", fails: bool = False) -> tuple[int, Path]:
        (tmp_path / "copy.py").write_text(COPY)
        (tmp_path / "made").write_bytes(made)
        (tmp_path / "fail.py").write_text("print('THE REASON')\nraise SystemExit(3)\n")
        stages = [{"name": "a", "step": 1, "about": "s", "run": [f"python {tmp_path}/copy.py {tmp_path}/made {{out}}/{name}"]}]  # fmt: skip  # noqa: E501
        stages[0] |= {"makes": name, "facts": {"f": f"{name}#metrics.n", "g": name}}
        if fails:
            stages.append({"name": "b", "step": 2, "about": "s", "run": [f"python {tmp_path}/fail.py"], "makes": "x"})
        place = f"{{a}}/{name}"
        table = {"title": "t", "metrics": {"n": "metrics.n"}, "rows": [{"name": "a", "result": place}], "says": "s"}
        plan = {"name": "n", "about": "a", "stages": stages, "tables": [table], "answers": place}
        (tmp_path / "plan.yaml").write_text(json.dumps(plan))
        status = main(["reproduce", "--plan", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "run"), "--json"])
        return status, tmp_path / "run"

    return run


ODD = [
    b"abc",
    b"\xff",
    b"",
    b"3",
    b"[1]",
    b'{"metrics": {"n": "text"}}',
    b'{"metrics": {"n": [1, 2]}, "items": 3}',
    b'{"metrics": {"n": NaN}, "items": []}',
    json.dumps({"metrics": {"n": 1}, "items": [{"id": "1"}]}).encode(),
    json.dumps({"metrics": {"n": True}, "items": [ITEM | {"looks": None}]}).encode(),
    json.dumps({"metrics": {"n": 1}, "items": [ITEM | {"text": None}]}).encode(),
    json.dumps({"items": [ITEM | {"tokens": {"visual": "<script>alert(1)</script>", "reinserted": 1}}]}).encode(),
]


@pytest.mark.parametrize("made", ODD)
@pytest.mark.parametrize("name", ["r.json", "r.jsonl"])
def test_a_result_of_any_shape_leaves_a_report(shown, capsys, made: bytes, name: str) -> None:
    """Each of these lost both files of the report after all the work."""
    status, run = shown(made, name=name)
    assert status == 0
    printed = capsys.readouterr().out
    report = json.loads((run / "report" / "report.json").read_text(), parse_constant=pytest.fail)
    assert json.loads(printed, parse_constant=pytest.fail) == report
    page = (run / "report" / "index.html").read_text()
    assert "<script>alert" not in page


@pytest.mark.parametrize("made", ODD)
def test_a_stage_that_fails_is_told_whatever_the_others_made(shown, capsys, made: bytes) -> None:
    """The error of the report's writing stood there instead."""
    status, run = shown(made, fails=True)
    assert status != 0
    said = capsys.readouterr().err
    assert "stage 'b' failed" in said
    assert "THE REASON" in said
    assert (run / "report" / "report.json").exists()


def stage(tmp_path: Path, **keys: str) -> Prepared:
    made = {"name": "a", "step": 1, "about": "s", "run": ("python x",), "makes": "m"} | keys
    prepared = Prepared(SeededStage(**made, planned="a", seed=None), "k", tmp_path, None, ())  # type: ignore[arg-type]
    prepared.out.mkdir(parents=True, exist_ok=True)
    return prepared


@pytest.mark.parametrize("record", ["", "1", '"x"', "{}", "[]", '{"seconds": "x"}', "\x00"])
def test_a_damaged_record_is_none(tmp_path: Path, record: str) -> None:
    prepared = stage(tmp_path)
    (prepared.out / "m").write_text("made")
    (tmp_path / "stage.json").write_text(record)
    assert prepared.record() is None
    (tmp_path / "stage.json").write_bytes(b"\xff\xfe")
    assert prepared.record() is None


def test_an_emptied_folder_is_not_made(tmp_path: Path) -> None:
    prepared = stage(tmp_path)
    (prepared.out / "m").mkdir()
    (tmp_path / "stage.json").write_text('{"seconds": 1}')
    assert prepared.record() is None
    (prepared.out / "m" / "weights").write_text("w")
    assert prepared.record() == {"seconds": 1}


def test_damaged_seconds_count_as_none(shown, tmp_path: Path) -> None:
    status, run = shown(b'{"metrics": {"n": 1}, "items": []}')
    assert status == 0
    (folder,) = (run / "made").iterdir()
    (folder / "stage.json").unlink()
    (folder / "seconds.txt").write_text("")
    assert shown(b'{"metrics": {"n": 1}, "items": []}')[0] == 0


def test_two_writers_of_one_file_leave_it_whole(tmp_path: Path) -> None:
    """They shared the file beside it, so that one found its own gone."""
    texts = [f"{n}\n" * 2000 for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: [write_whole(tmp_path / "f", text) for _ in range(40)], texts))
    assert (tmp_path / "f").read_text() in texts
    assert [path.name for path in tmp_path.iterdir()] == ["f"]


def test_the_end_of_a_log_is_fit_for_a_terminal(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_bytes(b"\x1b[31mred\x07\xff\n" * 3 + b"x" * 3_000_000 + b"\n")
    assert sum(map(len, read_end(log))) < 1000
    log.write_bytes(b"first\n\x1b[31mred\x07\xff\tend\n")
    assert read_end(log) == [
        "first",
        "\N{REPLACEMENT CHARACTER}[31mred" + "\N{REPLACEMENT CHARACTER}" * 2 + "      end",
    ]


def test_intervals_are_of_runs_that_asked_the_same(tmp_path: Path) -> None:
    def result(*ids: str, score: float = 1.0) -> dict:
        return {"items": [{"id": one, "strict": score} for one in ids]}

    assert item_scores([result("a", "b"), result("a", "b", score=0.0)]) == [0.5, 0.5]
    assert item_scores([result("a", "b"), result("a", "c")]) is None
    assert item_scores([result("a", "b"), result("a")]) is None
    assert item_scores([]) is None


def test_facts_are_read_from_whole_lines(tmp_path: Path) -> None:
    prepared = stage(tmp_path)
    (prepared.out / "l.jsonl").write_text('{"a": 1}\n{"a": ')
    assert read_value("l.jsonl#a", prepared) is None
    assert read_value("l.jsonl", prepared) == 2
    (prepared.out / "l.jsonl").write_text("")
    assert read_value("l.jsonl#a", prepared) is None
    assert read_value("l.jsonl", prepared) == 0


def test_numbers_that_json_has_not_are_null() -> None:
    assert only_finite({"a": [1.5, float("nan"), {"b": float("inf")}], "c": (1,)}) == {"a": [1.5, None, {"b": None}], "c": [1]}  # fmt: skip  # noqa: E501


def test_what_is_no_number_is_shown_as_text() -> None:
    keys = {"name": "a", "step": 1, "done": True, "about": "s", "facts": {"f": "<b>"}, "seconds": 1, "commands": []}
    head = {"plan": "p", "about": "a", "quick": False, "versions": {}, "tables": [], "figures": [], "answers": []}
    assert "f &lt;b&gt;" in build_page(head | {"stages": [keys | {"key": "k", "inputs": []}]})
