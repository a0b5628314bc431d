"""The workbench: passes in random order, a reference beside everything, noisy timings again, failures as rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from supernet.presets import DIGITS
from targets.runner import Failure, Form, Job, RunnerError, Timing
from tvm_latency.database import Context, MeasurementDatabase, Round
from tvm_latency.opspec import OpSpec
from tvm_latency.workbench import ALWAYS, NEVER, REFERENCE, Candidate, MeasureSettings, Workbench

HERE = Context("machine", 1, "0.27", 0)
CANDIDATES = {op.key: Candidate((op,), HERE) for op in DIGITS.op_specs()[:10]}
KEYS = list(CANDIDATES)
ROUNDS, EVERY = 3, 4


@dataclass
class Machine:
    """Calls of one second; a script says otherwise for the next rounds of a candidate, or its calls, in order."""

    script: dict[str, list[float | str | tuple[float, ...]]] = field(default_factory=dict)
    unbuildable: tuple[str, ...] = ()
    built: list[str] = field(default_factory=list)
    passes: list[list[Job]] = field(default_factory=list)
    paused: list[float] = field(default_factory=list)

    def build(self, wanted: Mapping[str, tuple[Sequence[OpSpec], Path]]) -> Iterator[tuple[str, Path | str]]:
        for key, (_, path) in wanted.items():
            path.with_suffix(".npz").write_text("an answer")
            path.write_text(key)
            self.built.append(key)
            yield key, "no linker" if key in self.unbuildable else path

    form: Form = "library"
    at_once: bool = True
    exact: bool = False

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        failed = set[str]()
        for jobs in passes:
            self.passes.append([])
            for job in [job for job in jobs if job.key not in failed]:
                assert job.module.exists()
                self.passes[-1].append(job)
                planned = self.script.get(job.key)
                found = planned.pop(0) if planned else 1.0
                if isinstance(found, str):
                    failed.add(job.key)
                    yield Failure(job.key, found)
                else:
                    yield Timing(job.key, found if isinstance(found, tuple) else (found,) * job.repeats)

    def measured(self, number: int) -> list[str]:
        return [job.key for job in self.passes[number] if job.key != REFERENCE]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MeasurementDatabase]:
    opened = MeasurementDatabase(tmp_path / "measurements.sqlite", clock=lambda: 0.0)
    yield opened
    opened.close()


def bench(machine: Machine, database: MeasurementDatabase, seed: int = 0, **settings: Any) -> Workbench:
    return Workbench(
        runner=machine,
        database=database,
        build=machine.build,
        workspace=database.path.parent,
        progress=lambda *_: None,
        settings=MeasureSettings(
            **{"rounds": ROUNDS, "repeats": 2, "reference_every": EVERY, "attempts": 2, "pause_s": 2.0, **settings}
        ),
        seed=seed,
        sleep=machine.paused.append,
    )


def rounds(database: MeasurementDatabase, key: str) -> tuple[Round, ...]:
    row = database.find(key, HERE)
    assert row is not None
    return row.rounds


def test_every_pass_has_everything_in_another_order(database: MeasurementDatabase) -> None:
    machine = Machine()
    assert bench(machine, database).measure(CANDIDATES) == 0
    assert len(machine.passes) == ROUNDS
    orders = [machine.measured(number) for number in range(ROUNDS)]
    assert [sorted(order) for order in orders] == [sorted(KEYS)] * ROUNDS
    assert len({tuple(order) for order in orders}) == ROUNDS
    assert rounds(database, KEYS[0]) == (Round((1.0, 1.0), (1.0,) * 4),) * ROUNDS
    assert bench(machine, database).measure(CANDIDATES) == len(KEYS)


def test_what_judges_others_has_more_rounds_however_quiet_and_they_are_not_measured_again_for_it(
    database: MeasurementDatabase,
) -> None:
    judging, *noisy = KEYS
    uneven = [1.0, 2.0, 1.0, 2.0, 1.0, 2.0] * ROUNDS
    bench(Machine({key: list(uneven) for key in noisy}), database, attempts=1).measure(CANDIDATES)
    bench(Machine(), database, attempts=4, noise=ALWAYS).measure({judging: CANDIDATES[judging]})
    assert bench(Machine(), database, attempts=1).measure(CANDIDATES) == len(KEYS)
    assert [len(rounds(database, key)) for key in KEYS] == [4 * ROUNDS, *[ROUNDS] * len(noisy)]


def test_the_reference_is_before_and_after_every_few(database: MeasurementDatabase) -> None:
    machine = Machine({REFERENCE: [1.0, 3.0, 3.0, 3.0]})
    bench(machine, database).measure(CANDIDATES)
    for jobs in machine.passes:
        places = [number for number, job in enumerate(jobs) if job.key == REFERENCE]
        assert (places[0], places[-1]) == (0, len(jobs) - 1)
        assert all(b - a <= EVERY + 1 for a, b in pairwise(places))
    first, last = machine.measured(0)[0], machine.measured(0)[-1]
    beside = [set(rounds(database, key)[0].reference_samples_s) for key in (first, last)]
    assert beside == [{1.0, 3.0}, {3.0}]


def test_all_calls_of_the_reference_are_kept(database: MeasurementDatabase) -> None:
    machine = Machine({REFERENCE: [(1.0, 1.0, 4.0), (1.0, 1.0, 1.0)]})
    bench(machine, database).measure({KEYS[0]: CANDIDATES[KEYS[0]]})
    assert rounds(database, KEYS[0])[0] == Round((1.0, 1.0), (1.0, 1.0, 4.0, 1.0, 1.0, 1.0))


@pytest.mark.parametrize("interrupted_after", [0, 5])
def test_what_was_carried_back_is_read_as_a_whole_or_asked_for_again(
    database: MeasurementDatabase, interrupted_after: int
) -> None:
    """Otherwise the rest would be another batch, and another walk."""
    machine = Machine(form="program", at_once=False)
    seen: list[int] = []

    def interrupt(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        seen.extend([done] if stage == "measure" else [])
        if len(seen) == interrupted_after + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(bench(machine, database), progress=interrupt).measure(CANDIDATES)
    assert database.count() == 0
    again = Machine(form="program", at_once=False)
    bench(again, database).measure(CANDIDATES)
    assert [[job.module for job in jobs] for jobs in again.passes] == [
        [job.module for job in jobs] for jobs in machine.passes
    ]
    assert database.count() == ROUNDS * len(KEYS)


def test_what_was_measured_is_removed_and_what_others_have_built_stays(database: MeasurementDatabase) -> None:
    others = database.path.with_name("others.so")
    others.touch()
    bench(Machine(), database).measure(CANDIDATES)
    assert [file for file in database.path.parent.iterdir() if file.suffix in (".so", ".npz")] == [others]


def test_programs_have_their_answer_inside(database: MeasurementDatabase) -> None:
    library, program = Machine(), Machine(form="program")
    for machine, rows in ((library, database), (program, MeasurementDatabase(database.path.with_name("other.sqlite")))):
        bench(machine, rows).measure(CANDIDATES)
        rows.close()
    assert {(job.module.suffix, job.answer is None) for job in library.passes[0]} == {(".so", False)}
    assert {(job.module.suffix, job.answer is None) for job in program.passes[0]} == {(".netbench", True)}


def test_what_is_noisy_has_more_rounds_after_a_pause(database: MeasurementDatabase) -> None:
    machine = Machine({KEYS[0]: [1.0, 1.5, 2.0]})
    bench(machine, database).measure(CANDIDATES)
    assert [len(machine.measured(number)) for number in range(len(machine.passes))] == [10, 10, 10, 1, 1, 1]
    assert machine.paused == [2.0]
    assert [found.samples_s[0] for found in rounds(database, KEYS[0])] == [1.0, 1.5, 2.0, 1.0, 1.0, 1.0]


def test_a_candidate_may_have_more_rounds_or_none_whatever_its_noise(database: MeasurementDatabase) -> None:
    fitted, varied, *others = KEYS
    own = {fitted: replace(CANDIDATES[fitted], noise=ALWAYS), varied: replace(CANDIDATES[varied], noise=NEVER)}
    machine = Machine({varied: [1.0, 2.0, 1.0]})
    bench(machine, database).measure({**CANDIDATES, **own})
    counts = {key: len(rounds(database, key)) for key in KEYS}
    assert counts == {fitted: 2 * ROUNDS, varied: ROUNDS, **dict.fromkeys(others, ROUNDS)}
    assert bench(machine, database).measure({**CANDIDATES, **own}) == len(KEYS)


def test_noise_that_the_reference_explains_is_none(database: MeasurementDatabase) -> None:
    slowness = [1.0, 1.06, 1.12]
    machine = Machine({KEYS[0]: list(slowness), REFERENCE: [slow for slow in slowness for _ in range(2)]})
    bench(machine, database).measure({KEYS[0]: CANDIDATES[KEYS[0]]})
    assert (len(machine.passes), machine.paused) == (ROUNDS, [])


def test_what_was_disturbed_has_more_rounds_though_the_reference_explains_it(database: MeasurementDatabase) -> None:
    slowness = [1.0, 1.5, 2.0]
    machine = Machine({KEYS[0]: list(slowness), REFERENCE: [slow for slow in slowness for _ in range(2)]})
    bench(machine, database).measure({KEYS[0]: CANDIDATES[KEYS[0]]})
    assert (len(machine.passes), machine.paused) == (2 * ROUNDS, [2.0])


def test_a_failure_is_a_row_has_no_further_round_and_is_tried_again(database: MeasurementDatabase) -> None:
    machine = Machine({KEYS[0]: ["took longer than 30 s"]}, unbuildable=(KEYS[1],))
    bench(machine, database).measure(CANDIDATES)
    rows = {key: database.find(key, HERE) for key in KEYS}
    assert {key: row.failure for key, row in rows.items() if row and row.failure} == {
        KEYS[0]: "took longer than 30 s",
        KEYS[1]: "no linker",
    }
    assert [len(machine.measured(number)) for number in range(ROUNDS)] == [9, 8, 8]
    assert database.count() == 2 + ROUNDS * (len(KEYS) - 2)
    again = Machine()
    assert bench(again, database).measure(CANDIDATES) == len(KEYS) - 2
    assert sorted(again.measured(0)) == sorted(KEYS[:2])
    # What had been built for it is still there.
    assert again.built == [REFERENCE, KEYS[1]]


def test_what_dies_after_a_good_round_is_a_failure_until_it_works(database: MeasurementDatabase) -> None:
    bench(Machine({KEYS[0]: [1.0, "died of SIGSEGV"]}), database).measure(CANDIDATES)
    row = database.find(KEYS[0], HERE)
    assert row is not None
    assert (len(row.rounds), row.failure) == (1, "died of SIGSEGV")
    assert bench(Machine(), database).measure(CANDIDATES) == len(KEYS) - 1
    row = database.find(KEYS[0], HERE)
    assert row is not None
    assert (len(row.rounds), row.failure) == (ROUNDS, None)


def test_without_its_reference_nothing_is_measured(database: MeasurementDatabase) -> None:
    with pytest.raises(RunnerError, match="reference network cannot be built: no linker"):
        bench(Machine(unbuildable=(REFERENCE,)), database).measure(CANDIDATES)
    with pytest.raises(RunnerError, match="reference network cannot be measured: died of SIGKILL"):
        bench(Machine({REFERENCE: ["died of SIGKILL"]}), database).measure(CANDIDATES)
    assert database.count() == 0


def test_a_disk_without_room_for_what_is_to_be_built_is_refused_before(
    database: MeasurementDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, free = Machine(), [20 << 20]
    monkeypatch.setattr("tvm_latency.workbench.shutil.disk_usage", lambda path: SimpleNamespace(free=free[0]))
    with pytest.raises(OSError, match=r"Only 20 MB are free .* about 2\d MB.* --database"):
        bench(full, database).measure(CANDIDATES)
    assert (full.passes, database.count()) == ([], 0)
    free[0] = 1 << 30
    with pytest.raises(KeyboardInterrupt):
        replace(bench(Machine(), database), progress=stop_when_built).measure(CANDIDATES)
    # What is there from before takes no room.
    free[0] = 0
    assert bench(Machine(), database).measure(CANDIDATES) == 0


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_second_attempt_is_finished_by_the_next_call(database: MeasurementDatabase, after: int) -> None:
    noisy = [1.0, 1.5, 2.0]

    def interrupted(seconds: float) -> None:
        if not after:
            raise KeyboardInterrupt

    machine = Machine({KEYS[0]: noisy + [1.0] * after})
    stopped = replace(bench(machine, database), sleep=interrupted, progress=stop_after(ROUNDS * len(KEYS) + after))
    with pytest.raises(KeyboardInterrupt):
        stopped.measure(CANDIDATES)
    rest = Machine()
    assert bench(rest, database).measure(CANDIDATES) == len(KEYS) - 1
    assert [rest.measured(number) for number in range(len(rest.passes))] == [[KEYS[0]]] * (ROUNDS - after)
    assert len(rounds(database, KEYS[0])) == 2 * ROUNDS
    assert bench(Machine(), database).measure(CANDIDATES) == len(KEYS)


def stop_when_built(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    """A callback that interrupts when everything is built."""
    if stage == "measure":
        raise KeyboardInterrupt


def stop_after(rounds: int) -> Callable[..., None]:
    """A callback that interrupts after so many rounds of measuring, if there are as many."""
    seen = []

    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        seen.extend([done] if stage == "measure" else [])
        if len(seen) == rounds and rounds > ROUNDS * len(KEYS):
            raise KeyboardInterrupt

    return progress
