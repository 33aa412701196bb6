"""Runs one stage as commands in processes of their own, and goes on where a killed run stopped."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from look_again.files import write_whole
from look_again.reproduce.made import Prepared, place, write_recipe, write_record
from look_again.reproduce.placeholders import fill

LOG_END = 15  # lines of a failed stage's log in the message
LOG_BYTES = 8192  # of its end that are looked at
LOG_COLUMNS = 300  # of a line
SPENT = "seconds.txt"  # of earlier tries of a stage that was killed
LOCK = "lock"
TICK_S = 0.2
THREADS = "OMP_NUM_THREADS"


class StageError(RuntimeError):
    """A stage's command ended with an error; the message has the end of its log."""


class StoppedError(RuntimeError):
    """A stage was ended because the run stops; it goes on at the next start."""


def run_stage(
    prepared: Prepared, stages: Mapping[str, Prepared], *, jobs: int = 1, keep_on: Callable[[], bool] = lambda: True
) -> None:
    """Run one stage's commands to their end and write its record.

    jobs: stages that run at once, among which the processor's threads are divided. keep_on: asked while a command runs.
    StageError for a command that fails, StoppedError once `keep_on` is false.
    """
    prepared.out.mkdir(parents=True, exist_ok=True)
    with _held(prepared.folder / LOCK, keep_on) as lock:
        if prepared.record() is not None:  # made by a command that outlived its killed run
            return
        places = place(prepared, stages)
        write_recipe(prepared, places)
        commands = [argv(line, places) for line in prepared.stage.run]
        with _spent(prepared.folder / SPENT) as spent, prepared.log.open("ab") as log:
            for command in commands:
                log.write(f"$ {shlex.join(command)}\n".encode())
                log.flush()
                status = _wait(_start(command, log, lock, jobs), keep_on)
                if status:
                    raise StageError(_failure(prepared, command, status))
        if not prepared.is_there():
            raise StageError(_failure(prepared, commands[-1], 0, f"it did not make {prepared.stage.makes}"))
        write_record(prepared, commands, _read_seconds(spent))


def argv(line: str, places: Mapping[str, str]) -> list[str]:
    """The command of a plan's line with this Python."""
    program, *rest = (fill(word, places) for word in shlex.split(line))
    return [sys.executable, *(["-m", "look_again"] if program == "look-again" else []), *rest]


def divide_threads(jobs: int) -> dict[str, str]:
    """The environment of a command among `jobs` at once: its part of the threads, unless the user set their number.

    Results may depend on the number of threads in their last digits, so that it depends on the plan alone and not on
    what happens to run beside a stage.
    """
    if jobs == 1 or THREADS in os.environ:
        return dict(os.environ)
    return {**os.environ, THREADS: str(max(1, (os.cpu_count() or 1) // jobs))}


def _start(command: list[str], log: IO[bytes], lock: int | None, jobs: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=divide_threads(jobs),
        pass_fds=() if lock is None else (lock,),
    )


def _wait(process: subprocess.Popen[bytes], keep_on: Callable[[], bool]) -> int:
    try:
        while True:
            try:
                return process.wait(TICK_S)
            except subprocess.TimeoutExpired:
                _check(keep_on)
    except BaseException:
        process.terminate()
        process.wait()
        raise


def _check(keep_on: Callable[[], bool]) -> None:
    if not keep_on():
        raise StoppedError("the run stops")


@contextmanager
def _held(path: Path, keep_on: Callable[[], bool]) -> Iterator[int | None]:
    """The stage for this process and the commands that inherit the file: None on Windows, which has no such locks.

    A run that was killed may leave a command running. It holds the lock until it ends, and is waited for.
    """
    if sys.platform == "win32":
        yield None
        return
    import fcntl

    with path.open("w") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                _check(keep_on)
                time.sleep(TICK_S)
        yield file.fileno()


@contextmanager
def _spent(path: Path) -> Iterator[Path]:
    """Adds the time spent inside to the seconds that `path` counts, over several starts."""
    before, start = _read_seconds(path), time.monotonic()
    try:
        yield path
    finally:
        write_whole(path, f"{before + time.monotonic() - start:.1f}")


def _read_seconds(path: Path) -> float:
    """0 for what is not there or damaged: these are seconds for the report alone."""
    try:
        return float(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return 0.0


def _failure(prepared: Prepared, command: list[str], status: int, reason: str = "") -> str:
    what = reason or f"its command ended with status {status}"
    return "\n".join(
        [
            f"stage {prepared.stage.name!r} failed: {what}",
            f"  command: {shlex.join(command)}",
            f"  the end of {prepared.log}:",
            *(f"    {line}" for line in read_end(prepared.log)),
            "  what is made stays; the same command goes on from here",
        ]
    )


def read_end(log: Path) -> list[str]:
    """The last lines of a log, fit for a terminal: few, short, and of printable characters."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_BYTES))
        text = file.read().decode(errors="replace")
    lines = text.expandtabs().splitlines()[-LOG_END:]
    shown = ("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines)
    return [line if len(line) <= LOG_COLUMNS else f"{line[:LOG_COLUMNS]} ..." for line in shown]
