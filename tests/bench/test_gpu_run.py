"""The run that measures a GPU: results as they come, whatever a part does, and a rehearsal of all of it on a CPU."""

from __future__ import annotations

import json
from typing import Any

import pytest

from look_again.bench import gpu_run
from look_again.bench.gpu_run import GpuRun, GpuSettings, main, run_pieces

DECODED = {"tokens_per_s", "bandwidth_limit_tokens_per_s", "first_call_s", "peak_gb"}


def broken() -> dict[str, Any]:
    raise RuntimeError("out of memory\nand a long trace")


def test_a_part_that_fails_says_so_and_the_next_one_runs(tmp_path, monkeypatch, capsys):
    pieces = [("first", lambda: {"value": 1}), ("broken", broken), ("last", lambda: {"value": 2})]
    monkeypatch.setattr(GpuRun, "pieces", lambda self: iter(pieces))
    assert main(["--device", "cpu", "--small", "--out", str(tmp_path / "gpu.jsonl")]) == 1
    lines = [json.loads(line) for line in (tmp_path / "gpu.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == ["machine", "first", "broken", "last"]
    assert lines[1]["value"] == 1
    assert lines[2]["error"] == "RuntimeError: out of memory"
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == lines


def test_no_part_begins_once_time_is_up(monkeypatch):
    moments = iter([0.0, 1.0, 1.0, 2.0, 9.0])
    monkeypatch.setattr(gpu_run.time, "perf_counter", lambda: next(moments))
    monkeypatch.setattr(GpuRun, "pieces", lambda self: iter([("first", dict), ("late", broken)]))
    written: list[dict[str, Any]] = []
    run_pieces(GpuSettings(device="cpu", small=True, seconds=5), written.append)
    assert written[1:] == [{"name": "first", "seconds": 1.0}, {"name": "late", "skipped": "5 seconds were up"}]


def test_no_seconds_are_refused():
    with pytest.raises(ValueError, match="seconds must be above 0, not 0"):
        GpuSettings(seconds=0)


@pytest.mark.slow
def test_the_rehearsal_writes_every_field(tmp_path):
    assert main(["--device", "cpu", "--small", "--seconds", "3000", "--out", str(tmp_path / "gpu.jsonl")]) == 0
    lines = {line["name"]: line for line in map(json.loads, (tmp_path / "gpu.jsonl").read_text().splitlines())}
    names = [name for name, _ in GpuRun(GpuSettings(device="cpu", small=True)).pieces()]
    assert list(lines) == ["machine", *names]
    for name in names:
        assert "skipped" not in lines[name]
        assert set(lines[name]) >= (DECODED if name.startswith("decode") else {"seconds"})
    assert lines["recompilations"] == {**lines["recompilations"], "graphs": 0, "looks": 3}
    assert lines["flash_equality"]["largest_gap"] < 1e-4
