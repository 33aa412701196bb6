"""The ledger: one SQLite file per run that holds every row, request, reply, result and decision.

Nothing else about a run is remembered, so what is committed here is what happened. A request is written before it goes
out and its reply before anybody reads it (synchronous=FULL: on disk, not only with the system), so a process killed
anywhere loses at most the replies that were under way, and those are counted when the run is opened again. The paper
names no such thing; a week of paid requests needs it.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

from look_again.pipeline.ledger.tables import TABLES, VERSION

FILE = "ledger.sqlite"
LOCK = "ledger.lock"
BUSY_S = 30.0  # that a writer waits for another one

Op = tuple[str, Sequence[Any]]
"""A statement and its values."""


class LedgerError(ValueError):
    """A ledger that cannot be used."""


class LedgerFullError(LedgerError):
    """The disk took no more: nothing of the refused transaction was kept."""


class Spent(NamedTuple):
    """What a run has cost: replies, tokens in and out, money in the endpoints' unit."""

    replies: int
    tokens_in: int
    tokens_out: int
    money: float


class Ledger:
    """A run's folder, opened. Reads may come from any thread; writes are one transaction per `apply`.

    Raises LedgerError for a file that is no ledger, or one of another version; `create=False`: also where none is.
    """

    def __init__(self, folder: str | Path, *, create: bool = True) -> None:
        self.folder = Path(folder)
        self.path = self.folder / FILE
        if not create and not self.path.is_file():
            raise LedgerError(f"{self.folder} holds no run: there is no {FILE} in it")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._lock_file: IO[str] | None = None
        self._writer, self._reader = _connect(self.path), _connect(self.path)
        try:
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise _explained(error, self.path) from error

    def _prepare(self) -> None:
        self._writer.execute("PRAGMA journal_mode=WAL")
        self._writer.execute("PRAGMA synchronous=FULL")
        self._writer.executescript(f"BEGIN IMMEDIATE; {TABLES} COMMIT")
        self._writer.execute("INSERT OR IGNORE INTO facts VALUES ('version', ?)", [str(VERSION)])
        ((version,),) = self._writer.execute("SELECT value FROM facts WHERE name = 'version'")
        if version != str(VERSION):
            raise LedgerError(f"{self.path} is a ledger of version {version}; this is version {VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._writer.close()
        self._reader.close()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def apply(self, ops: Iterable[Op]) -> None:
        """All statements or none, on disk when this returns. LedgerFullError when the disk has no room."""
        with self._lock:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for statement, values in ops:
                    self._writer.execute(statement, values)
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.Error):
                    raise _explained(error, self.path) from error
                raise

    def read(self, statement: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a SELECT over what is committed."""
        with self._lock:
            return self._reader.execute(statement, values).fetchall()

    def fact(self, name: str) -> str | None:
        values = self.read("SELECT value FROM facts WHERE name = ?", [name])
        return values[0][0] if values else None

    def set_fact(self, name: str, value: str) -> None:
        self.apply([("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))])

    # sessions

    def begin(self, command: str) -> int:
        """Start working on the run; the number of this session.

        Requests that an earlier process left under way are marked as interrupted, and counted here.
        LedgerError while another process works on it.
        """
        self._hold()
        now = time.time()
        lost = "UPDATE attempts SET outcome = 'interrupted', ended_at = ? WHERE outcome IS NULL"
        count = "(SELECT count(*) FROM attempts WHERE outcome IS NULL)"
        self.apply(
            [
                (f"INSERT INTO sessions (command, started, interrupted) VALUES (?, ?, {count})", (command, now)),
                (lost, (now,)),
            ]
        )
        return int(self.read("SELECT max(id) FROM sessions")[0][0])

    def end(self, session: int, outcome: str) -> None:
        """The session is over; `outcome` says how. Lets other processes work on the run."""
        try:
            self.apply([("UPDATE sessions SET ended = ?, outcome = ? WHERE id = ?", (time.time(), outcome, session))])
        finally:
            self.release()

    def release(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _hold(self) -> None:
        """One process at a time sends requests: two would pay for the same ones."""
        if self._lock_file is not None:
            return
        lock = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.close()
            raise LedgerError(f"another process is working on {self.folder}: wait for it or stop it") from error
        self._lock_file = lock

    # requests

    def reply(self, key: str) -> dict[str, Any] | None:
        """The committed reply to a request."""
        values = self.read("SELECT reply FROM requests WHERE key = ? AND reply IS NOT NULL", [key])
        return json.loads(values[0][0]) if values else None

    def attempts(self, key: str) -> int:
        """The number of times that a request has gone out."""
        return int(self.read("SELECT count(*) FROM attempts WHERE key = ?", [key])[0][0])

    def last_attempt(self) -> int:
        return int(self.read("SELECT coalesce(max(id), 0) FROM attempts")[0][0])

    def spent(self) -> Spent:
        sums = "count(*), coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0), coalesce(sum(cost), 0)"
        return Spent(*self.read(f"SELECT {sums} FROM requests WHERE reply IS NOT NULL")[0])

    def audit(self) -> dict[str, int]:
        """sent_again: attempts at a request made after its reply was committed (a fault of ours if not 0).

        interrupted: attempts under way when a process ended. repeated: of these, those whose request went out again.
        """
        again = "SELECT count(*) FROM attempts a JOIN requests r USING (key) WHERE a.id > r.answered_by"
        lost = "SELECT count(*) FROM attempts WHERE outcome = 'interrupted'"
        repeated = (
            "SELECT count(*) FROM attempts a WHERE outcome = 'interrupted' "
            "AND EXISTS (SELECT 1 FROM attempts b WHERE b.key = a.key AND b.id > a.id)"
        )
        names = {"sent_again": again, "interrupted": lost, "repeated": repeated}
        return {name: int(self.read(query)[0][0]) for name, query in names.items()}


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)


def _explained(error: sqlite3.Error, path: Path) -> LedgerError:
    if getattr(error, "sqlite_errorname", "") in ("SQLITE_FULL", "SQLITE_IOERR_WRITE") or "is full" in str(error):
        return LedgerFullError(f"the disk of {path} is full ({error}): make room and start again; nothing is lost")
    return LedgerError(f"{path}: {error}")
