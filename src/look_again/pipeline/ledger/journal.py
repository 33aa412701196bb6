"""A worker's ledger: what it does for one task, where the worker that takes over from it will find it.

It is a ledger like the run's, with the task's items alone, in a folder of this machine that goes when it is closed.
What lasts is a file beside the task: every transaction is added to it, and on the disk, before the worker goes on. A
worker that comes after one that was killed reads that file first, so it asks for nothing that was answered. Each worker
writes a file of its own; two that take each other for dead cannot spoil one.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from look_again.pipeline.ledger.items import WAITING, WorkItem
from look_again.pipeline.ledger.ledger import Ledger, LedgerError, LedgerFullError, Op
from look_again.pipeline.ledger.tasks import Task

SUFFIX = ".journal"
NUMBERS = 10**6  # of attempts, that each worker at a task has for itself; below are those of earlier sessions


class Journal(Ledger):
    """The ledger of one worker at one task, opened. `number`: this is the task's first, second, … worker."""

    def __init__(self, path: Path, task: Task) -> None:
        """path: of the task's file. LedgerError where no journal can be written beside it."""
        self._away = tempfile.TemporaryDirectory(prefix="look-again-")
        self._file: IO[bytes] | None = None
        super().__init__(self._away.name)
        try:
            self._writer.execute("PRAGMA synchronous=OFF")  # what lasts is the file
            super().apply(_known(task))
            for earlier in journals(path):
                for ops in read_journal(earlier):
                    super().apply(ops)
            self.number, self._file = _new_file(path)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()
        self._away.cleanup()

    def apply(self, ops: Iterable[Op]) -> None:
        """Apply statements as the run's ledger does. LedgerError; after a write that failed there is no other."""
        if self._file is None:
            raise LedgerError("the journal is closed")
        transaction = [(statement, list(values)) for statement, values in ops]
        super().apply(transaction)
        line = json.dumps(transaction).encode() + b"\n"
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, "No space left on device")
            os.fsync(self._file.fileno())
        except OSError as error:
            file, self._file = self._file, None
            file.close()
            raise LedgerFullError(f"{file.name} cannot be written: {error.strerror}; nothing is lost") from error

    def last_attempt(self) -> int:
        return max(super().last_attempt(), self.number * NUMBERS)

    def is_done(self, item: WorkItem) -> bool:
        """Whether an earlier worker has finished this item of the task."""
        statuses = self.read("SELECT status FROM results WHERE n = ? AND sample = ?", [item.n, item.sample])
        return bool(statuses) and statuses[0][0] != WAITING


def _known(task: Task) -> Iterator[Op]:
    """Requests of earlier sessions: their replies, or how often they went out."""
    for key, *about, reply, tokens_in, tokens_out, cost in task.known:
        values = (key, *about, reply, None if reply is None else 0, tokens_in, tokens_out, cost)
        yield f"INSERT INTO requests VALUES ({', '.join('?' * len(values))})", values
        for _ in range(task.attempts.get(key, 0)):
            yield "INSERT INTO attempts VALUES (NULL, ?, 0, 0, 0, 'earlier')", [key]


def journals(task: Path) -> list[Path]:
    """The journals of a task, in the order in which they were begun."""
    return sorted(task.parent.glob(f"{task.stem}.*{SUFFIX}"))


def read_journal(path: Path) -> Iterator[list[Op]]:
    """Transaction by transaction, up to one that was being written when the worker was killed."""
    with path.open("rb") as file:
        for line in file:
            try:
                ops = json.loads(line)
            except ValueError:
                return
            yield [(statement, values) for statement, values in ops]


def _new_file(task: Path) -> tuple[int, IO[bytes]]:
    """A journal that nobody else has, and its number."""
    number = len(journals(task))
    while True:
        number += 1
        try:
            path = task.parent / f"{task.stem}.{number:02d}{SUFFIX}"
            return number, cast(IO[bytes], path.open("xb", buffering=0))
        except FileExistsError:
            continue
        except OSError as error:
            raise LedgerError(f"no journal can be written beside {task}: {error.strerror}") from error
