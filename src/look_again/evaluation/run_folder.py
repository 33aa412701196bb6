"""A run's folder: `config.json`, `items.jsonl` with a line per finished item, and at the end `result.json`.

A line is written and flushed as soon as an item is finished, so a killed run loses nothing finished; the same command
resumes it. A resumed run must be the same run: its configuration is compared first.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, BinaryIO

from look_again.evaluation.benchmark import JSON, Judge
from look_again.evaluation.subjects import Output
from look_again.files import write_whole

CONFIG, ITEMS, RESULT, JUDGED = "config.json", "items.jsonl", "result.json", "judge.jsonl"


class RunFolder:
    """The folder of one run, as a context manager.

    outputs: what is finished, by item id. ValueError for a folder of another run, naming what differs, and for one that
    another process is writing.
    """

    def __init__(self, path: Path, config: Mapping[str, JSON]) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self._items = _appended(path / ITEMS)  # first: only who holds the lock may write the configuration
        try:
            self._check(json.loads(json.dumps(config)))
            self.outputs = {line.pop("id"): _output(line) for line in whole_lines(path / ITEMS)}
        except BaseException:
            self._items.close()
            raise

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        self._items.close()

    @property
    def done(self) -> set[str]:
        """Ids of finished items; one with an error is asked again by a resumed run."""
        return {id for id, output in self.outputs.items() if output.error is None}

    def add(self, id: str, output: Output) -> None:
        """Keep an item's output, at once."""
        self.outputs[id] = output
        write_line(self._items, {"id": id, **asdict(output)})

    def finish(self, result: Mapping[str, JSON]) -> Path:
        """Write `result.json` whole or not at all."""
        return write_json(self.path / RESULT, result)

    def _check(self, config: dict[str, Any]) -> None:
        path = self.path / CONFIG
        if not path.exists():
            if (self.path / ITEMS).stat().st_size:
                raise ValueError(f"{self.path} holds {ITEMS} without {CONFIG}; take another folder")
            write_json(path, config)
            return
        before = json.loads(path.read_text(encoding="utf-8"))
        if not whole_lines(self.path / JUDGED):  # no judge has replied, so another one mixes nothing
            before["judge"] = config.get("judge")
        if changed := differing(before, config):
            raise ValueError(f"{self.path} holds another run ({'; '.join(changed)}); take another folder or remove it")
        write_json(path, config)


def differing(before: Any, now: Any, name: str = "") -> list[str]:
    """In words, what differs between two configurations."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [*before, *(key for key in now if key not in before)]
        parts = [differing(before.get(key), now.get(key), f"{name}.{key}" if name else key) for key in keys]
        return [part for found in parts for part in found]
    return [] if before == now else [f"{name} was {before!r}, now {now!r}"]


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON lines of a file, without one that was cut off; none where there is no file."""
    if not path.exists():
        return []
    *lines, _ = path.read_bytes().split(b"\n")  # bytes: what was cut off may end inside a character
    return [json.loads(line) for line in lines]


def write_line(file: BinaryIO, value: Mapping[str, JSON]) -> None:
    """Append a line and hand it to the operating system."""
    file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
    file.flush()


def write_json(path: Path, value: Mapping[str, JSON]) -> Path:
    """Write a file whole or not at all."""
    return write_whole(path, json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n")


def remembered(judge: Judge, path: Path) -> Judge:
    """A judge whose replies are kept in a file, so that a resumed run pays for none twice.

    The n-th time that a prompt is asked gets the n-th reply to it, so a retry after nonsense stays a retry. A prompt is
    known by its hash. Not for several threads at once.
    """
    kept: dict[str, list[str]] = {}
    for line in whole_lines(path):
        kept.setdefault(line["prompt"], []).append(line["reply"])
    asked: dict[str, int] = {}

    def ask(prompt: str) -> str:
        key = hashlib.sha256(prompt.encode()).hexdigest()
        turn = asked[key] = asked.get(key, 0) + 1
        replies = kept.setdefault(key, [])
        if len(replies) < turn:
            replies.append(judge(prompt))
            with _appended(path) as file:
                write_line(file, {"prompt": key, "reply": replies[-1]})
        return replies[turn - 1]

    return ask


def _appended(path: Path) -> BinaryIO:
    """The file, open for appending by this process alone, without a line that was cut off."""
    file = path.open("ab+")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise ValueError(f"another process is writing {path}") from None
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)
    return file


def _output(line: Mapping[str, Any]) -> Output:
    known = {field.name for field in fields(Output)}
    return Output(**{name: value for name, value in line.items() if name in known})
