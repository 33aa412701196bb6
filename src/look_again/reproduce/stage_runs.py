"""Runs the stages of a plan, each as commands in processes of their own, and goes on where a killed run stopped."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from look_again.reproduce.made import Prepared, place, write_recipe, write_record
from look_again.reproduce.plan import fill
from look_again.reproduce.progress import StageProgress

LOG_END = 15  # lines of a failed stage's log in the message
SPENT = "seconds.txt"  # of earlier tries of a stage that was killed
TICK_S = 0.5


class StageError(RuntimeError):
    """A stage's command ended with an error; the message has the end of its log."""


def selected(stages: Mapping[str, Prepared], start: str | None, only: Sequence[str]) -> list[Prepared]:
    """The stages to go through, in order: all, those from `start` on, or `only` some, all seeds of a name with it.

    ValueError for names that no stage has, and for inputs that neither are made nor will be.
    """
    names = list(stages)
    for asked in [*([start] if start else []), *only]:
        if not _matching(names, asked):
            raise ValueError(f"no stage is called {asked!r}; there are {', '.join(names)}")
    if start:
        names = names[names.index(_matching(names, start)[0]) :]
    if only:
        names = [name for name in names if any(name in _matching(names, asked) for asked in only)]
    for name in names:
        for needed in stages[name].inputs:
            if needed not in names and stages[needed].record() is None:
                raise ValueError(f"stage {name!r} needs {needed!r}, which is not made yet: run that first")
    return [stages[name] for name in names]


def _matching(names: Sequence[str], asked: str) -> list[str]:
    return [name for name in names if name == asked or name.rpartition("-")[::2] == (asked, name.rpartition("-")[2])]


def run_stages(todo: Sequence[Prepared], stages: Mapping[str, Prepared], progress: StageProgress) -> list[str]:
    """Make what is not made; returns the names of the stages that ran. StageError at the first that fails."""
    ran = []
    for prepared in todo:
        if prepared.record() is not None:
            progress.skip(prepared.stage)
            continue
        with progress.running(prepared.stage):
            run_stage(prepared, stages, progress)
        ran.append(prepared.stage.name)
    return ran


def run_stage(prepared: Prepared, stages: Mapping[str, Prepared], progress: StageProgress) -> None:
    """Run one stage's commands to their end and write its record. StageError otherwise."""
    prepared.out.mkdir(parents=True, exist_ok=True)
    places = place(prepared, stages)
    write_recipe(prepared, places)
    commands = [argv(line, places) for line in prepared.stage.run]
    with _spent(prepared.folder / SPENT) as seconds, prepared.log.open("ab") as log:
        for command in commands:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            status = _wait(command, log, progress)
            if status:
                raise StageError(_failure(prepared, command, status))
    if not (prepared.out / prepared.stage.makes).exists():
        raise StageError(_failure(prepared, commands[-1], 0, f"it did not make {prepared.stage.makes}"))
    write_record(prepared, commands, float(seconds.read_text()))


def argv(line: str, places: Mapping[str, str]) -> list[str]:
    """The command of a plan's line with this Python."""
    program, *rest = (fill(word, places) for word in shlex.split(line))
    return [sys.executable, *(["-m", "look_again"] if program == "look-again" else []), *rest]


def _wait(command: list[str], log, progress: StageProgress) -> int:
    process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        while True:
            try:
                return process.wait(TICK_S)
            except subprocess.TimeoutExpired:
                progress.tick()
    except BaseException:
        process.terminate()
        process.wait()
        raise


@contextmanager
def _spent(path: Path) -> Iterator[Path]:
    """Adds the time spent inside to the seconds that `path` counts, over several starts."""
    before, start = (float(path.read_text()) if path.exists() else 0.0), time.monotonic()
    try:
        yield path
    finally:
        path.write_text(f"{before + time.monotonic() - start:.1f}")


def _failure(prepared: Prepared, command: list[str], status: int, reason: str = "") -> str:
    end = prepared.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_END:]
    what = reason or f"its command ended with status {status}"
    return "\n".join(
        [
            f"stage {prepared.stage.name!r} failed: {what}",
            f"  command: {shlex.join(command)}",
            f"  the end of {prepared.log}:",
            *(f"    {line}" for line in end),
            "  what is made stays; the same command goes on from here",
        ]
    )


def read_records(stages: Mapping[str, Prepared]) -> dict[str, dict]:
    """The record of every stage that is done, by name."""
    return {name: record for name, one in stages.items() if (record := one.record()) is not None}


def write_state(run: Path, plan_file: Path, quick: bool, stages: Mapping[str, Prepared]) -> None:
    """`RUN/stages.json`: which folder holds which stage of the plan as it stands now."""
    state = {
        "plan": str(plan_file),
        "quick": quick,
        "stages": {name: one.folder.name for name, one in stages.items()},
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "stages.json").write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
