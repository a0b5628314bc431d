"""Tiles by measuring: the faster one wins by more than noise, and what was measured stays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from targets.runner import Failure, Job, Timing
from targets.target import Target, get_target
from tvm_latency.database import MeasurementDatabase
from tvm_latency.kernel_library import build_kernels, parameter_shapes, parameter_types
from tvm_latency.lower import LoweringError
from tvm_latency.opspec import WeightType
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Kernel, Spec, pack_bias
from tvm_latency.tune import Choice, TuneSettings, choose, row_key, tune

TARGET = get_target("x86-64-v3").with_tiles(4)
SPEC = ConvSpec(batch=1, height=6, width=6, in_channels=8, out_channels=24)
DEPTHWISE = replace(SPEC, in_channels=24, kernel=(3, 3), padding=1, groups=24)
SPECS = (SPEC, DEPTHWISE, replace(SPEC, in_channels=16))
VERSIONS = (7, "0.27")
FUSED = (
    replace(SPEC, out_channels=12),
    BlockSpec(
        expand=replace(SPEC, height=112, width=112, in_channels=16, out_channels=96),
        depthwise=replace(
            SPEC, height=112, width=112, in_channels=96, out_channels=96, kernel=(3, 3), stride=2, padding=1, groups=96
        ),
        project=replace(SPEC, height=56, width=56, in_channels=96, out_channels=24),
    ),
)


def kernel(spec: Spec, target: Target = TARGET) -> Kernel:
    found = schedule_kernel(spec, target)
    assert found is not None
    return found


@dataclass
class Machine:
    """Runs no code: every tile takes 10 us, except those in `seconds`."""

    seconds: dict[str, float] = field(default_factory=dict)
    fails: tuple[str, ...] = ()
    dies_after: int | None = None
    built: list[list[str]] = field(default_factory=list)
    ran: list[Job] = field(default_factory=list)

    def build(self, kernels: Mapping[str, Kernel], target: Target, path: Path) -> Path:
        self.built.append([found.name for found in kernels.values()])
        return path

    def run(self, jobs: Sequence[Job], rounds: int = 1) -> Iterator[Timing | Failure]:
        for job in jobs:
            if self.dies_after is not None and len(self.ran) >= self.dies_after:
                raise KeyboardInterrupt
            self.ran.append(job)
            if job.key in self.fails:
                yield Failure(job.key, "died of SIGSEGV")
            else:
                yield Timing(job.key, (self.seconds.get(job.key, 1e-5),) * rounds)


@pytest.fixture
def tuned(tmp_path: Path) -> Callable[..., dict[str, Choice]]:
    def run(
        machine: Machine,
        target: Target = TARGET,
        versions: tuple[int, str] = VERSIONS,
        specs: Sequence[Spec] = SPECS,
    ) -> dict[str, Choice]:
        return tune(
            specs,
            target,
            runner=machine,
            database=MeasurementDatabase(tmp_path / "m.sqlite"),
            versions=versions,
            workspace=tmp_path,
            progress=lambda *_: None,
            build=machine.build,
            settings=TuneSettings(batch=2),
        )

    return run


@pytest.mark.parametrize(
    ("samples", "tile"),
    [
        ({"first": [10.0, 10, 10], "second": [9.0, 9, 30]}, "second"),
        ({"first": [10.0, 10, 10], "second": [9.8, 9.8, 9.8]}, "first"),
        ({"first": [10.0, 10, 10], "second": [9.0, 9, 9], "third": [8.0, 8, 8]}, "third"),
        ({"first": [10.0, 10, 10], "second": []}, "first"),
    ],
    ids=["faster by median", "faster by less than noise", "the fastest", "the other failed"],
)
def test_a_tile_is_chosen_if_it_saves_more_than_noise(samples: dict[str, list[float]], tile: str) -> None:
    choice = choose(samples)
    assert choice is not None
    assert choice.tile == tile
    assert choice.analytic_s == 10.0


def test_nothing_is_chosen_where_the_analytic_choice_failed() -> None:
    assert choose({"first": [], "second": [1.0]}) is None


def test_the_faster_of_two_wins_and_the_rest_keep_their_tile(tuned: Callable[..., dict[str, Choice]]) -> None:
    fast = kernel(SPEC).tiles[2]
    found = tuned(Machine(seconds={row_key(kernel(SPEC).name, fast.text): 6e-6}))
    assert found[kernel(SPEC).name] == Choice(tile=fast.text, seconds=6e-6, analytic_s=1e-5)
    assert all(found[kernel(spec).name].tile == kernel(spec).tiles[0].text for spec in SPECS[1:])


def test_every_kernel_is_tried_with_as_many_tiles_as_asked(tuned: Callable[..., dict[str, Choice]]) -> None:
    machine = Machine()
    tuned(machine)
    assert [names.count(kernel(spec).name) for spec in SPECS for names in machine.built] == [4, 0, 4, 0, 0, 4]
    job = machine.ran[0]
    assert job.key == row_key(kernel(SPEC).name, kernel(SPEC).tiles[0].text)
    assert job.input_shapes == parameter_shapes(kernel(SPEC))[:-1]
    assert len({(job.module, job.function) for job in machine.ran[:8]}) == 8


def test_kernels_without_tiles_are_left_alone(tuned: Callable[..., dict[str, Choice]]) -> None:
    machine = Machine()
    assert tuned(machine, specs=FUSED) == {}
    assert (machine.built, machine.ran) == ([], [])
    names = [kernel(spec, TARGET.with_tiles(4, {kernel(spec).name: "1x8v8"})).name for spec in FUSED]
    assert names[0].startswith("paired_pointwise_")
    assert names[1].startswith("inverted_residual_")


def test_float16_weights_are_timed_as_float16_and_have_rows_of_their_own(
    tuned: Callable[..., dict[str, Choice]],
) -> None:
    half = replace(SPEC, weights="float16")
    tuned(Machine())
    machine = Machine()
    assert list(tuned(machine, specs=(half,))) == [kernel(half).name]
    assert [job.input_types for job in machine.ran] == [("float32", "float16", "float32")] * 4


def test_what_is_measured_is_not_measured_again(tuned: Callable[..., dict[str, Choice]]) -> None:
    fast = row_key(kernel(SPEC).name, kernel(SPEC).tiles[1].text)
    first = tuned(Machine(seconds={fast: 5e-6}))
    again = Machine(seconds={fast: 1.0})
    assert tuned(again) == first
    assert again.ran == []


def test_a_killed_tuning_goes_on_with_the_kernels_that_lack_a_row(
    tuned: Callable[..., dict[str, Choice]],
) -> None:
    with pytest.raises(KeyboardInterrupt):
        tuned(Machine(dies_after=6))
    rest = Machine()
    assert len(tuned(rest)) == 3
    assert kernel(SPEC).name not in {name for names in rest.built for name in names}
    assert len(rest.ran) == 8


@pytest.mark.parametrize(
    ("target", "versions"),
    [
        (TARGET, (8, "0.27")),
        (TARGET, (7, "0.28")),
        (replace(TARGET, cpu_model="another"), VERSIONS),
        (TARGET.with_tiles(3), VERSIONS),
    ],
    ids=["schedules", "TVM", "machine", "number of tiles"],
)
def test_rows_of_other_code_or_machines_do_not_count(
    tuned: Callable[..., dict[str, Choice]], target: Target, versions: tuple[int, str]
) -> None:
    tuned(Machine())
    machine = Machine()
    tuned(machine, target, versions)
    assert len(machine.ran) == 3 * target.alternatives


def test_a_tile_that_crashes_is_not_chosen_nor_tried_again(tuned: Callable[..., dict[str, Choice]]) -> None:
    keys = [row_key(kernel(SPEC).name, tile.text) for tile in kernel(SPEC).tiles[:3]]
    machine = Machine(seconds={keys[2]: 5e-6}, fails=(keys[1],))
    assert tuned(machine)[kernel(SPEC).name].tile == kernel(SPEC).tiles[2].text
    again = Machine()
    tuned(again)
    assert again.ran == []


def test_kernels_that_do_not_compile_keep_their_tile(tuned: Callable[..., dict[str, Choice]]) -> None:
    class Broken(Machine):
        def build(self, kernels: Mapping[str, Kernel], target: Target, path: Path) -> Path:
            raise LoweringError("no registers left")

    assert tuned(Broken()) == {}


def test_a_target_with_tiles_schedules_them() -> None:
    tile = kernel(SPEC).tiles[3]
    chosen = kernel(SPEC, TARGET.with_tiles(4, {kernel(SPEC).name: tile.text}))
    expected = schedule_kernel(SPEC, TARGET, tile)
    assert expected is not None
    assert chosen.func.script() == expected.func.script() != kernel(SPEC).func.script()


def test_a_tile_that_no_kernel_has_is_not_taken() -> None:
    strange = TARGET.with_tiles(4, {kernel(SPEC).name: "1000x1v1s1"})
    assert kernel(SPEC, strange).func.script() == kernel(SPEC).func.script()


@pytest.mark.compiles
@pytest.mark.parametrize("stored", ["float32", "float16"])
def test_a_library_of_kernels_computes_with_each(stored: WeightType, tmp_path: Path) -> None:
    target, spec = get_target("x86-64-v3"), replace(SPEC, weights=stored)
    tiles = {f"f{i}": schedule_kernel(spec, target, tile) for i, tile in enumerate(kernel(spec).tiles[:3])}
    kernels = {name: found for name, found in tiles.items() if found is not None}
    library = build_kernels(kernels, target, tmp_path / "k.so")
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    random = np.random.default_rng(0)
    x, bias = random.standard_normal((36, 8)).astype("f"), random.standard_normal(24).astype("f")
    weights = random.standard_normal((24, 8, 1, 1)).astype(stored).astype("f")
    expected = x.astype(float) @ weights[:, :, 0, 0].T.astype(float) + bias
    for name, found in kernels.items():
        assert parameter_types(found) == ("float32", stored, "float32", "float32")
        got = machine[name](*map(tvm.runtime.tensor, (x, found.packs[0](weights), pack_bias(bias)))).numpy()
        np.testing.assert_allclose(got, expected, rtol=0, atol=10 * np.finfo(np.float32).eps * abs(expected).max())
