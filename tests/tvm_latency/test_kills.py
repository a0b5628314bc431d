"""SIGKILL at random moments, a full disk: no row is lost, doubled or wrong, and what goes on ends with all of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from targets.runner import Failure, Form, Job, Timing
from tvm_latency.database import Context, DatabaseError, MeasurementDatabase
from tvm_latency.opspec import OpSpec
from tvm_latency.workbench import REFERENCE, Candidate, MeasureSettings, Workbench

HERE = Context("machine", 1, "0.27", 0)
OPS = [OpSpec(kind="conv", height=7, width=7, in_channels=8, out_channels=8 * n) for n in range(1, 301)]
CANDIDATES = {op.key: Candidate((op,), HERE) for op in OPS}
KILLS, ROUNDS = 60, 2


class Machine:
    """Every fifth operator crashes; the others take as many microseconds as they have channels."""

    def __init__(self, at_work: Callable[[], object] = lambda: None) -> None:
        self.at_work = at_work

    def build(self, wanted: Mapping[str, tuple[Sequence[OpSpec], Path]]) -> Iterator[tuple[str, Path | str]]:
        for key, (ops, path) in wanted.items():
            path.with_suffix(".npz").write_text("an answer")
            path.write_text(str(ops[0].out_channels))
            yield key, path

    form: Form = "library"
    at_once = True
    exact = False

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        failed = set[str]()
        for jobs in passes:
            for result in self.run_pass([job for job in jobs if job.key not in failed]):
                failed |= {result.key} if isinstance(result, Failure) else set()
                yield result

    def run_pass(self, jobs: Sequence[Job]) -> Iterator[Timing | Failure]:
        self.at_work()
        for job in jobs:
            channels = int(job.module.read_text())
            time.sleep(2e-4)
            if job.key != REFERENCE and channels % 40 == 0:
                yield Failure(job.key, "died of SIGSEGV")
            else:
                yield Timing(job.key, (1e-6 * channels,) * job.repeats)


def calibrate(path: Path, at_work: Callable[[], object] = lambda: None) -> None:
    machine = Machine(at_work)
    with closing(MeasurementDatabase(path)) as database:
        Workbench(
            runner=machine,
            database=database,
            build=machine.build,
            workspace=path.parent,
            progress=lambda *_: None,
            settings=MeasureSettings(rounds=ROUNDS, repeats=1, pause_s=0.0),
        ).measure(CANDIDATES)


def rows(path: Path) -> list[tuple[str, str | None, str | None]]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT op_key, samples_s, failure FROM measurement ORDER BY id").fetchall()


def test_sixty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    path, random, fork = tmp_path / "measurements.sqlite", Random(0), multiprocessing.get_context("fork")
    MeasurementDatabase(path).close()
    seen: list[tuple[str, str | None, str | None]] = []
    alive = 0
    for kill in range(KILLS):
        at_work = fork.Event()
        process = fork.Process(target=calibrate, args=(path, at_work.set))
        process.start()
        if kill % 6:  # the others may hit it while it opens the database
            at_work.wait(60.0)
        time.sleep(random.uniform(0.0, 0.1))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        alive += process.exitcode == -signal.SIGKILL
        found = rows(path)
        assert found[: len(seen)] == seen, "a row that was there is gone or has changed"
        seen = found
    assert alive >= 50, "it was done before it was killed"
    assert {key for key, samples, _ in seen if samples}, "nothing was measured between kills"
    calibrate(path)
    measured = {op.key: f"[{1e-6 * op.out_channels}]" for op in OPS if op.out_channels % 40}
    done = [(key, samples) for key, samples, _ in rows(path) if samples]
    assert Counter(key for key, _ in done) == dict.fromkeys(measured, ROUNDS)
    assert dict(done) == measured
    # What crashes is tried again by every calibration that comes to it, and is never a number.
    assert {key for key, _, failure in rows(path) if failure} == {op.key for op in OPS if op.out_channels % 40 == 0}


def test_a_disk_that_fills_ends_with_a_sentence_and_goes_on_later(tmp_path: Path) -> None:
    path = tmp_path / "measurements.sqlite"
    database = MeasurementDatabase(path)
    # The file may grow by some pages and no more, as on a full disk.
    pages = database._execute("PRAGMA page_count")[0][0]
    database._execute(f"PRAGMA max_page_count = {pages + 4}")
    machine = Machine()
    bench = Workbench(
        runner=machine, database=database, build=machine.build, workspace=tmp_path, progress=lambda *_: None
    )
    with pytest.raises(
        DatabaseError, match=r"cannot be read or written \(database or disk is full\).* the space on its"
    ):
        bench.measure(CANDIDATES)
    database.close()
    kept = rows(path)
    assert 0 < len(kept) < len(OPS)
    calibrate(path)
    assert rows(path)[: len(kept)] == kept
    assert len({key for key, _, _ in rows(path)}) == len(OPS)
