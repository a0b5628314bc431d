"""Measurements in SQLite: append-only, safe to kill, never mixed between machines or versions."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple

SCHEMA_VERSION = 6

_SCHEMA = """
CREATE TABLE measurement (
    id INTEGER PRIMARY KEY,
    op_key TEXT NOT NULL,
    fingerprint TEXT NOT NULL,
    schedule_version INTEGER NOT NULL,
    tvm_version TEXT NOT NULL,
    evict_bytes INTEGER NOT NULL,
    samples_s TEXT,
    reference_samples_s TEXT,
    clock_mhz INTEGER NOT NULL DEFAULT 0,
    failure TEXT,
    created REAL NOT NULL,
    CHECK ((samples_s IS NULL) <> (failure IS NULL))
);
CREATE INDEX by_key ON measurement (op_key, fingerprint, schedule_version, tvm_version, evict_bytes);
"""

# What each format added to the one before; those before the first of them lack nothing else. Nothing is lost, but a
# round without the calls of the reference does not count.
_ADDED = {5: "reference_samples_s TEXT", 6: "clock_mhz INTEGER NOT NULL DEFAULT 0"}


class DatabaseError(RuntimeError):
    """The database cannot be used: another program's or version's, damaged, locked, or not writable."""


@dataclass(frozen=True)
class Context:
    """What two rows must share to be compared: machine and code, schedules, TVM, how cold the caches were."""

    fingerprint: str
    schedule_version: int
    tvm_version: str
    evict_bytes: int


class Round(NamedTuple):
    """Seconds of the calls of one round, and of those of the reference network before and after them.

    clock_mhz: of what computed, after the last call; 0: unknown.
    """

    samples_s: tuple[float, ...]
    reference_samples_s: tuple[float, ...]
    clock_mhz: int = 0


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What is known of one operator or network in one context: all rounds of all rows.

    failure: why the latest attempt gave no round; None if it gave one. `created` is that of the latest row, in seconds
    since 1970.
    """

    op_key: str
    context: Context
    rounds: tuple[Round, ...]
    failure: str | None
    created: float


class MeasurementDatabase:
    """Rows are added, one for each round or failure, and committed before `add` returns. Samples never change.

    A file that SQLite cannot read is moved aside, never deleted; `recovered` then says so and where it is.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create.

        Raises:
            DatabaseError: another program or version wrote the file, or it cannot be written.
        """
        self.path = path
        self.recovered: str | None = None
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._connection = self._open_or_recover()
        except sqlite3.OperationalError as error:
            raise DatabaseError(
                f"{path} cannot be opened ({error}). Check its permissions, or name another with --database."
            ) from error

    def _open_or_recover(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:
            with self.path.with_name(f"{self.path.name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                return self._recover()

    def _recover(self) -> sqlite3.Connection:
        try:
            # Another process may have moved the damaged file aside in the meantime.
            return self._open()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            aside = self._move_aside()
            self.recovered = f"{self.path} is damaged ({error}); it was moved to {aside} and an empty one started."
            return self._open()

    def _open(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=60.0)
        try:
            problems = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problems != "ok":
                raise sqlite3.DatabaseError(problems)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._create(connection)
            elif 0 < version < SCHEMA_VERSION:
                self._migrate(connection, version)
            elif version != SCHEMA_VERSION:
                raise DatabaseError(
                    f"{self.path} has format {version}, this netlathe writes {SCHEMA_VERSION}. "
                    "Name another file with --database."
                )
        except (sqlite3.Error, DatabaseError):
            connection.close()
            raise
        return connection

    def _create(self, connection: sqlite3.Connection) -> None:
        # In one transaction, and only if nobody else was faster.
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
            if connection.execute("SELECT 1 FROM sqlite_master").fetchone():
                raise DatabaseError(
                    f"{self.path} holds the tables of another program. Name another file with --database."
                )
            for statement in filter(str.strip, _SCHEMA.split(";")):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _migrate(self, connection: sqlite3.Connection, version: int) -> None:
        # In one transaction, and only if nobody else was faster.
        connection.execute("BEGIN IMMEDIATE")
        if connection.execute("PRAGMA user_version").fetchone()[0] == version:
            for column in (column for added, column in _ADDED.items() if added > version):
                connection.execute(f"ALTER TABLE measurement ADD COLUMN {column}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")

    def _move_aside(self) -> Path:
        number = 1
        while (aside := self.path.with_name(f"{self.path.name}.corrupt-{number}")).exists():
            number += 1
        # The file itself goes last: whoever opens a new one in its place must not find the old one's journal.
        for suffix in ("-journal", "-wal", "-shm", ""):
            file = self.path.with_name(self.path.name + suffix)
            if file.exists():
                file.rename(aside.with_name(aside.name + suffix))
        return aside

    def _execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.DatabaseError as error:
            raise DatabaseError(
                f"{self.path} cannot be read or written ({error}). Check its permissions, the space on its disk and "
                "that no other program uses it, or name another file with --database."
            ) from error

    def add(self, op_key: str, context: Context, found: Round | str) -> None:
        """Append one result: a round, or the reason why there is none.

        Raises:
            ValueError: a round without samples, or no reason.
            DatabaseError: the row cannot be written.
        """
        timed, failure = (None, found) if isinstance(found, str) else (found, None)
        if not failure and not (timed and timed.samples_s):
            raise ValueError("A measurement has samples, or the reason why it has none.")
        self._execute(
            "INSERT INTO measurement"
            " (op_key, fingerprint, schedule_version, tvm_version, evict_bytes, samples_s, reference_samples_s,"
            " clock_mhz, failure, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            op_key,
            *astuple(context),
            json.dumps(timed.samples_s) if timed else None,
            json.dumps(timed.reference_samples_s) if timed else None,
            timed.clock_mhz if timed else 0,
            failure,
            self._clock(),
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All rows that are added within it are written at its end, or none if it is interrupted.

        Raises:
            DatabaseError: they cannot be written.
        """
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def find(self, op_key: str, context: Context) -> Measurement | None:
        """All rounds in exactly this context, and how the latest attempt failed if it did; None if there is no row.

        Raises:
            DatabaseError: the file cannot be read.
        """
        rows = self._execute(
            "SELECT samples_s, reference_samples_s, clock_mhz, failure, created FROM measurement"
            " WHERE op_key = ? AND fingerprint = ? AND schedule_version = ? AND tvm_version = ? AND evict_bytes = ?"
            # Others cannot be compared; a program of before that still has the file open writes such rows.
            " AND (samples_s IS NULL OR reference_samples_s IS NOT NULL) ORDER BY id",
            op_key,
            *astuple(context),
        )
        if not rows:
            return None
        rounds = tuple(Round(tuple(json.loads(row[0])), tuple(json.loads(row[1])), row[2]) for row in rows if row[0])
        return Measurement(
            op_key=op_key,
            context=context,
            rounds=rounds,
            failure=rows[-1][3],
            created=rows[-1][4],
        )

    def count(self) -> int:
        """How many rows there are.

        Raises:
            DatabaseError: the file cannot be read.
        """
        total: int = self._execute("SELECT COUNT(*) FROM measurement")[0][0]
        return total

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
