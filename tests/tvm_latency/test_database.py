"""The database: append-only, safe to kill, never mixed."""

import os
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tvm_latency.database import Context, DatabaseError, MeasurementDatabase, Round

HERE = Context("machine", 1, "0.27", 0)


def one(seconds: float) -> Round:
    return Round((seconds,), (1.0,))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "measurements.sqlite"


def test_samples_come_back_as_they_were(path: Path) -> None:
    database = MeasurementDatabase(path, clock=lambda: 12.5)
    database.add("op", HERE, Round((1e-6, 2.5e-6), (2.0, 2.25), 1980))
    found = database.find("op", HERE)
    assert found is not None
    assert (found.rounds, found.failure, found.created) == ((Round((1e-6, 2.5e-6), (2.0, 2.25), 1980),), None, 12.5)


@pytest.mark.parametrize(
    "other",
    [
        replace(HERE, fingerprint="another machine"),
        replace(HERE, schedule_version=2),
        replace(HERE, tvm_version="0.28"),
        replace(HERE, evict_bytes=1),
    ],
)
def test_rows_of_another_context_do_not_mix(path: Path, other: Context) -> None:
    database = MeasurementDatabase(path)
    database.add("op", other, one(1.0))
    assert database.find("op", HERE) is None
    assert database.find("another op", other) is None


def test_all_rounds_count_and_the_latest_attempt_decides_whether_it_failed(path: Path) -> None:
    database = MeasurementDatabase(path)
    database.add("op", HERE, "first")
    database.add("op", HERE, "second")
    found = database.find("op", HERE)
    assert found is not None
    assert found.failure == "second"
    database.add("op", HERE, one(1.0))
    database.add("op", HERE, one(2.0))
    database.add("op", HERE, "third")
    found = database.find("op", HERE)
    assert found is not None
    assert found.rounds == (one(1.0), one(2.0))
    assert found.failure == "third"
    database.add("op", HERE, one(3.0))
    found = database.find("op", HERE)
    assert found is not None
    assert (len(found.rounds), found.failure) == (3, None)
    assert database.count() == 6


@pytest.mark.parametrize("result", ["", Round((), (1.0,))])
def test_a_row_has_samples_or_a_reason(path: Path, result: Round | str) -> None:
    with pytest.raises(ValueError, match="the reason why it has none"):
        MeasurementDatabase(path).add("op", HERE, result)


def test_a_killed_writer_loses_nothing_it_added(path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from tvm_latency.database import Context, MeasurementDatabase, Round
database = MeasurementDatabase(Path({str(path)!r}))
for i in range(5):
    database.add(f"op{{i}}", Context("machine", 1, "0.27", 0), Round((i,), (1.0,)))
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    database = MeasurementDatabase(path)
    assert database.recovered is None
    assert [database.find(f"op{i}", HERE).rounds for i in range(5)] == [(one(i),) for i in range(5)]  # type: ignore[union-attr]


def test_two_processes_may_write(path: Path) -> None:
    first, second = MeasurementDatabase(path), MeasurementDatabase(path)
    first.add("a", HERE, one(1.0))
    second.add("b", HERE, one(2.0))
    assert first.find("b", HERE) is not None


def test_a_damaged_file_is_moved_aside_and_said(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    database = MeasurementDatabase(path)
    aside = path.with_name("measurements.sqlite.corrupt-1")
    assert database.recovered is not None
    assert str(aside) in database.recovered
    assert aside.read_bytes().startswith(b"this is no database")
    database.add("op", HERE, one(1.0))
    database.close()
    path.write_bytes(b"broken again" * 100)
    assert "corrupt-2" in str(MeasurementDatabase(path).recovered)


def test_a_file_that_another_process_has_just_replaced_stays(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other is done between the moment this one finds the damage and the moment it would mend it."""
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)
    others: list[MeasurementDatabase] = []
    open_file = MeasurementDatabase._open

    def open_late(self: MeasurementDatabase) -> sqlite3.Connection:
        monkeypatch.undo()
        try:
            return open_file(self)
        finally:
            others.append(MeasurementDatabase(path))

    monkeypatch.setattr(MeasurementDatabase, "_open", open_late)
    database = MeasurementDatabase(path)
    others[0].add("op", HERE, one(1.0))
    assert "corrupt-1" in str(others[0].recovered)
    assert database.recovered is None
    assert database.find("op", HERE) is not None


def test_one_of_many_recovers_a_damaged_file(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 100)

    def add(i: int) -> str | None:
        with closing(MeasurementDatabase(path)) as database:
            database.add(f"op{i}", HERE, one(1.0))
            return database.recovered

    with ThreadPoolExecutor(8) as pool:
        recovered = list(pool.map(add, range(8)))
    assert sum(said is not None for said in recovered) == 1
    assert MeasurementDatabase(path).count() == 8


def test_the_tables_of_another_program_are_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE photograph (id INTEGER)")
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="holds the tables of another program"):
        MeasurementDatabase(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("PRAGMA query_only = 1", "readonly"),
        ("PRAGMA max_page_count = 1", "full"),
        ("DROP TABLE measurement", "no such table"),
    ],
)
def test_a_row_that_cannot_be_written(path: Path, trouble: str, message: str) -> None:
    database = MeasurementDatabase(path)
    database._connection.execute(trouble)
    with pytest.raises(DatabaseError, match=f"cannot be read or written .*{message}.* --database"):
        database.add("op", HERE, "because " * 10_000)


def test_rows_that_cannot_be_read(path: Path) -> None:
    database = MeasurementDatabase(path)
    database._connection.execute("PRAGMA busy_timeout = 1")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseError, match="locked"):
            database.find("op", HERE)
        with pytest.raises(DatabaseError, match="locked"):
            database.count()


def test_another_format_is_refused_and_kept(path: Path) -> None:
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(DatabaseError, match="format 99"):
        MeasurementDatabase(path)
    assert path.exists()


def test_a_folder_in_place_of_the_file(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(DatabaseError, match="cannot be opened"):
        MeasurementDatabase(path)


@pytest.mark.parametrize(
    ("version", "reference", "values"),
    [(1, "", ""), (4, " reference_s REAL, reference_mean_s REAL,", " 1.0, 1.1,")],
)
def test_a_file_of_an_older_format_is_taken_on_and_its_times_do_not_count(
    path: Path, version: int, reference: str, values: str
) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as old:
        old.executescript(
            "CREATE TABLE measurement (id INTEGER PRIMARY KEY, op_key TEXT NOT NULL, fingerprint TEXT NOT NULL,"
            " schedule_version INTEGER NOT NULL, tvm_version TEXT NOT NULL, evict_bytes INTEGER NOT NULL,"
            f" samples_s TEXT,{reference} failure TEXT, created REAL NOT NULL);"
            f"INSERT INTO measurement VALUES (1, 'op', 'machine', 1, '0.27', 0, '[1.0]',{values} NULL, 0.0);"
            f"PRAGMA user_version = {version};"
        )
    for _ in range(2):
        database = MeasurementDatabase(path)
        assert database.count() == 1
        assert database.find("op", HERE) is None
        database.close()
    database = MeasurementDatabase(path)
    database.add("op", HERE, one(3.0))
    found = database.find("op", HERE)
    assert found is not None
    assert found.rounds == (one(3.0),)


def test_rounds_of_the_format_before_clocks_count(path: Path) -> None:
    database = MeasurementDatabase(path)
    database.add("op", HERE, Round((1.0,), (2.0,), 1980))
    database.close()
    with closing(sqlite3.connect(path)) as old:
        old.executescript("ALTER TABLE measurement DROP COLUMN clock_mhz; PRAGMA user_version = 5;")
    database = MeasurementDatabase(path)
    found = database.find("op", HERE)
    assert found is not None
    assert found.rounds == (Round((1.0,), (2.0,), 0),)


def test_rows_of_a_program_that_does_not_know_the_format_yet_do_not_count(path: Path) -> None:
    """One that has opened the file before another brought it up to date."""
    database = MeasurementDatabase(path)
    database._execute(
        "INSERT INTO measurement (op_key, fingerprint, schedule_version, tvm_version, evict_bytes, samples_s,"
        " created) VALUES ('op', 'machine', 1, '0.27', 0, '[1.0]', 0.0)"
    )
    assert database.find("op", HERE) is None
    database.add("op", HERE, one(2.0))
    found = database.find("op", HERE)
    assert found is not None
    assert found.rounds == (one(2.0),)
