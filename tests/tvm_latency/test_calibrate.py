from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import pytest

from supernet.presets import DIGITS
from targets.runner import Failure, Form, Job, Timing
from targets.target import Target
from tvm_latency.calibrate import Calibration, CalibrationError, calibrate, network_key
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.opspec import OpSpec, network_weight_bytes
from tvm_latency.overflow import Overflow
from tvm_latency.workbench import REFERENCE, MeasureSettings, Workbench

TARGET = Target(
    name="test",
    kind="x86",
    mtriple="x86_64-linux-gnu",
    mcpu="x86-64-v4",
    vector_bits=512,
    vector_registers=32,
    l1d_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
    cores=2,
    cpu_model="a test",
)
OPS = DIGITS.op_specs()
EVICT = 1_000_000
SCALE = 0.8
ROUNDS, EVERY = 2, 4


def networks(count: int, seed: int) -> list[tuple[OpSpec, ...]]:
    random = Random(seed)
    return [DIGITS.random_architecture(random).op_specs() for _ in range(count)]


FIT, TEST = networks(6, seed=1), networks(8, seed=2)
# What is fitted to is measured twice in any case.
AGAIN = ROUNDS * len({network_key(net) for net in FIT})


def block_seconds(op: OpSpec) -> float:
    return 2e-6 + op.macs / 50e9


@dataclass
class Machine:
    """Builds files that hold the seconds of their operators, and runs them on a clock of its own.

    slowdown: how many times as long everything takes in each pass, the reference too.
    """

    built: list[str] = field(default_factory=list)
    ran: list[Job] = field(default_factory=list)
    cannot_build: str = ""
    cannot_run: str = ""
    dies_after: int | None = None
    slowdown: Callable[[int], float] = lambda number: 1.0
    overflow: Overflow = field(default_factory=Overflow)
    clock_mhz: int = 0
    runs: int = 0

    def build(self, wanted: Mapping[str, tuple[Sequence[OpSpec], Path]]) -> Iterator[tuple[str, Path | str]]:
        for key, (ops, path) in wanted.items():
            path.with_suffix(".npz").write_text("an answer")
            blocks_s = sum(map(block_seconds, ops))
            overflow_s = self.overflow.seconds_per_byte * self.overflow.bytes_of(ops)
            path.write_text(str(blocks_s if len(ops) == 1 else SCALE * blocks_s + overflow_s))
            if key != REFERENCE:
                self.built.append(key)
            yield key, "no kernel of ours and no linker" if key == self.cannot_build else path

    form: Form = "library"
    at_once: bool = True
    exact: bool = False

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        failed = set[str]()
        for jobs in passes:
            for result in self.run_pass([job for job in jobs if job.key not in failed]):
                failed |= {result.key} if isinstance(result, Failure) else set()
                yield result

    def run_pass(self, jobs: Sequence[Job]) -> Iterator[Timing | Failure]:
        slow = self.slowdown(self.runs)
        self.runs += 1
        for job in jobs:
            if job.key == REFERENCE:
                yield Timing(job.key, (slow * 1e-3,) * job.repeats)
                continue
            if self.dies_after is not None and len(self.ran) >= self.dies_after:
                raise KeyboardInterrupt
            self.ran.append(job)
            if job.key == self.cannot_run:
                yield Failure(job.key, "the process that ran it died of SIGSEGV")
            else:
                seconds = float(job.module.read_text())
                # One interrupted run among many: the median does not see it.
                samples_s = (slow * seconds,) * (job.repeats - 1) + (100 * seconds,)
                yield Timing(job.key, samples_s, clock_mhz=self.clock_mhz and self.clock_mhz + len(self.ran) % 2)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[MeasurementDatabase]:
    opened = MeasurementDatabase(tmp_path / "measurements.sqlite", clock=lambda: 0.0)
    yield opened
    opened.close()


def run(
    machine: Machine,
    database: MeasurementDatabase,
    *,
    ops: Sequence[OpSpec] = OPS,
    fit: Sequence[Sequence[OpSpec]] = FIT,
    test: Sequence[Sequence[OpSpec]] = TEST,
    target: Target = TARGET,
    versions: tuple[int, str] = (1, "0.27"),
    evict_bytes: int = EVICT,
    heavy: Sequence[Sequence[OpSpec]] = (),
    heaviest_bytes: int = 0,
    seen: list[tuple[str, int, int]] | None = None,
) -> Calibration:
    workspace = database.path.parent / "workspace"
    workspace.mkdir(exist_ok=True)
    return calibrate(
        ops,
        fit,
        test,
        target=target,
        workbench=Workbench(
            runner=machine,
            database=database,
            build=machine.build,
            workspace=workspace,
            progress=lambda stage, done, total, _: (seen if seen is not None else []).append((stage, done, total)),
            settings=MeasureSettings(rounds=ROUNDS, repeats=5, warmup=1, reference_every=EVERY, pause_s=0.0),
        ),
        versions=versions,
        evict_bytes=evict_bytes,
        heavy_networks=heavy,
        heaviest_bytes=heaviest_bytes,
    )


def test_every_block_and_network_is_measured_and_the_correction_found(database: MeasurementDatabase) -> None:
    machine, seen = Machine(), []
    found = run(machine, database, seen=seen)
    distinct = len({network_key(net) for net in (*FIT, *TEST)})
    assert (found.measured, found.reused, found.failures) == (len(OPS) + distinct, 0, {})
    for op in OPS:
        entry = found.table.entries[op.key]
        assert (entry.seconds, entry.spread_s, entry.source) == (pytest.approx(block_seconds(op)), 0.0, "measured")
    # The machine is exactly what the correction assumes; what remains is its prior.
    assert found.accuracy.networks.within_5pct == 1.0
    assert found.accuracy.networks.count == len({network_key(net) for net in TEST})
    assert found.accuracy.blocks.count == len(OPS)
    assert found.accuracy.noise == 0.0
    assert found.model.correction.spread == found.table.spread < 0.01
    total = len(OPS) + distinct
    assert ("build", total, total) in seen
    assert ("measure", ROUNDS * total, ROUNDS * total) in seen
    assert seen[-1] == ("measure", AGAIN, AGAIN)


def test_the_lowest_and_the_highest_clock_are_told(database: MeasurementDatabase) -> None:
    assert run(Machine(clock_mhz=1980), database).clocks_mhz == (1980, 1981)
    assert run(Machine(), database, versions=(2, "0.27")).clocks_mhz == ()


# A slow second pass leaves one quiet round of two, which is too few, so there are two more.
@pytest.mark.parametrize(("slowness", "share"), [(1.08, 0.0), (2.0, 0.25)])
def test_a_machine_that_slows_down_changes_nothing(
    database: MeasurementDatabase, tmp_path: Path, slowness: float, share: float
) -> None:
    steady = run(Machine(), database)
    disturbed = MeasurementDatabase(tmp_path / "disturbed" / "measurements.sqlite")
    found = run(Machine(slowdown=lambda number: slowness if number == 1 else 1.0), disturbed)
    disturbed.close()
    assert (found.disturbed, steady.disturbed) == (share, 0.0)
    for key, entry in steady.table.entries.items():
        assert found.table.entries[key].seconds == pytest.approx(entry.seconds, rel=1e-9)
    assert {net: time.seconds for net, time in found.test.items()} == pytest.approx(
        {net: time.seconds for net, time in steady.test.items()}
    )


def test_blocks_are_timed_cold_and_networks_as_they_run(database: MeasurementDatabase) -> None:
    machine = Machine()
    run(machine, database)
    assert {job.evict_bytes for job in machine.ran if job.key.startswith("net:")} == {0}
    assert {job.evict_bytes for job in machine.ran if not job.key.startswith("net:")} == {EVICT}
    assert all((job.repeats, job.warmup) == (5, 1) for job in machine.ran)


def test_a_second_calibration_measures_nothing_and_finds_the_same(database: MeasurementDatabase) -> None:
    first, again = run(Machine(), database), Machine()
    rows = database.count()
    second = run(again, database)
    assert (again.built, again.ran, database.count()) == ([], [], rows)
    assert (second.measured, second.reused) == (0, first.measured)
    assert (second.table, second.accuracy) == (first.table, first.accuracy)


@pytest.mark.parametrize(
    "other",
    [
        {"target": replace(TARGET, cpu_model="another")},
        {"target": TARGET.with_threads(2)},
        {"versions": (2, "0.27")},
        {"versions": (1, "0.28")},
    ],
)
def test_measurements_of_another_machine_or_version_do_not_count(database: MeasurementDatabase, other: dict) -> None:
    first, machine = run(Machine(), database), Machine()
    found = run(machine, database, **other)
    assert (found.measured, found.reused) == (first.measured, 0)
    assert len(machine.ran) == ROUNDS * first.measured + AGAIN


def test_colder_blocks_are_measured_again_and_networks_are_not(database: MeasurementDatabase) -> None:
    run(Machine(), database)
    assert run(Machine(), database, evict_bytes=2 * EVICT).measured == len(OPS)


@pytest.mark.parametrize(
    ("machine", "reason"),
    [
        (Machine(cannot_build=OPS[9].key), "no kernel of ours and no linker"),
        (Machine(cannot_run=OPS[9].key), "the process that ran it died of SIGSEGV"),
    ],
)
def test_a_failure_is_a_row_and_the_rest_goes_on(database: MeasurementDatabase, machine: Machine, reason: str) -> None:
    found = run(machine, database)
    assert found.failures == {OPS[9].key: reason}
    row = database.find(OPS[9].key, Context(TARGET.fingerprint, 1, "0.27", EVICT))
    assert row is not None
    assert (row.failure, row.rounds) == (reason, ())
    assert found.table.entries[OPS[9].key].source == "predicted"
    assert found.table.entry(OPS[9]).seconds == pytest.approx(block_seconds(OPS[9]), rel=0.3)
    assert sum(entry.source == "measured" for entry in found.table.entries.values()) == len(OPS) - 1


def test_a_failure_is_tried_once_more_by_the_next_calibration(database: MeasurementDatabase) -> None:
    run(Machine(cannot_run=OPS[9].key), database)
    machine = Machine()
    found = run(machine, database)
    assert [job.key for job in machine.ran] == [OPS[9].key] * ROUNDS
    assert (found.measured, found.failures) == (1, {})


@pytest.mark.parametrize("after", [0, 5, len(OPS) + 33])
def test_an_interrupted_calibration_goes_on_where_it_stopped(database: MeasurementDatabase, after: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(Machine(dies_after=after), database)
    kept = database.count()
    # What waits for its reference is lost with it.
    assert after - EVERY < kept <= after
    rest = Machine()
    found = run(rest, database)
    total = found.measured + found.reused
    assert rest.built == []
    assert len(rest.ran) == ROUNDS * total + AGAIN - kept
    assert database.count() == ROUNDS * total + AGAIN
    assert max(Counter(job.key for job in rest.ran if not job.key.startswith("net:")).values()) <= ROUNDS


def test_the_result_is_that_of_a_calibration_that_was_never_stopped(tmp_path: Path) -> None:
    results = []
    for name, after in (("stopped", 7), ("whole", None)):
        database = MeasurementDatabase(tmp_path / name / "measurements.sqlite")
        if after is not None:
            with pytest.raises(KeyboardInterrupt):
                run(Machine(dies_after=after), database)
        found = run(Machine(), database)
        found.model.save(tmp_path / f"{name}.json")
        results.append((found.table, found.accuracy, (tmp_path / f"{name}.json").read_bytes()))
        database.close()
    assert results[0] == results[1]


def test_heavy_networks_say_what_weights_cost_beyond_those_of_the_space(database: MeasurementDatabase) -> None:
    heaviest = 1_600_000
    random = Random(3)
    heavy = [DIGITS.widened(1.5).random_architecture(random).op_specs() for _ in range(5)]
    found = run(
        Machine(overflow=Overflow(heaviest, 1e-9)),
        database,
        heavy=[net for net in heavy if network_weight_bytes(net) > heaviest],
        heaviest_bytes=heaviest,
    )
    assert found.table.overflow.above_bytes == heaviest
    assert found.table.overflow.seconds_per_byte == pytest.approx(1e-9, rel=0.1)
    assert len(found.fitted_to.heavy) >= 3
    # Nothing else is fitted to them.
    assert found.model.correction == run(Machine(), database).model.correction


def test_a_fitted_network_is_no_test(database: MeasurementDatabase) -> None:
    found = run(Machine(), database, test=[*FIT, TEST[0]])
    assert found.accuracy.networks.count == 1


@pytest.mark.parametrize(
    ("few", "message"),
    [
        ({"fit": FIT[:1]}, "53 operators, 1 networks to fit to and 8 to test on; at least 16, 2 and 1"),
        ({"test": FIT}, "6 networks to fit to and 0 to test on"),
        ({"ops": OPS[:5]}, "Measured 5 operators"),
    ],
)
def test_too_few_measurements_are_a_sentence(database: MeasurementDatabase, few: dict, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        run(Machine(), database, **few)


def test_the_sentence_has_the_first_failure(database: MeasurementDatabase) -> None:
    bad = network_key(FIT[0])
    with pytest.raises(CalibrationError, match=f"The first failure, of {bad}: no kernel of ours and no linker"):
        run(Machine(cannot_build=bad), database, fit=FIT[:2])


def test_a_network_is_named_by_its_operators_in_order() -> None:
    assert network_key(FIT[0]) == network_key(list(FIT[0]))
    assert network_key(FIT[0]) != network_key(FIT[0][::-1])
    assert network_key(FIT[0]).startswith("net:")
