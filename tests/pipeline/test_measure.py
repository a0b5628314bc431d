from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from pipeline import api, artefacts, calibration, measure
from pipeline.measure import MeasureError, measure_files, measure_networks, what_runs
from pipeline.nets import input_shape_of
from pipeline.places import calibration_folder
from pipeline.saved_calibration import load_calibration, save_calibration, space_options
from supernet.architecture import Choice
from supernet.presets import CIFAR, DIGITS, IMAGENET
from supernet.space import SearchSpace
from targets.registry import get_target
from targets.runner import Failure, Job, Timing
from targets.target import Target
from tvm_latency.accuracy import Accuracy, Scores
from tvm_latency.cost_model import CostModel, CostModelError
from tvm_latency.latency_table import Entry, LatencyTable
from tvm_latency.lower import LoweringError
from tvm_latency.opspec import network_weight_bytes

Tensor = tuple[str, int]


class FakeRunner:
    """Every call takes `call_s`; what it was asked for is kept."""

    call_s = 1e-3
    asked: ClassVar[list[tuple[Job, int, float]]]
    passes: ClassVar[list[list[int]]]

    form = "library"
    at_once = True
    exact = False

    def __init__(self, target: Target, deadline_s: float = 1.0) -> None:
        self.deadline_s = deadline_s

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        self.passes.append([len(jobs) for jobs in passes])
        for job in (job for jobs in passes for job in jobs):
            rounds = sum(other == job for jobs in passes for other in jobs)
            self.asked.append((job, rounds, self.deadline_s))
            yield Timing(job.key, (self.call_s,) * job.repeats)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> type[FakeRunner]:
    class Runner(FakeRunner):
        asked: ClassVar[list[tuple[Job, int, float]]] = []
        passes: ClassVar[list[list[int]]] = []

    monkeypatch.setattr(measure, "find_runner", Runner)
    return Runner


def test_a_fast_network_is_timed_often(runner: type[FakeRunner]) -> None:
    found = measure_files({"a": Path("a.so"), "b": Path("b.so")}, (1, 3), get_target("x86"))
    assert {name: len(timing.samples_s) for name, timing in found.items()} == {"a": 1000, "b": 1000}
    # One call of each decides how many; then five processes have two rounds of both.
    assert runner.passes == [[2], [4] * 5]


@pytest.mark.parametrize("call_s", [0.05, 0.3, 2.0, 15.0])
def test_a_slow_network_is_timed_less_and_has_the_time_it_needs(runner: type[FakeRunner], call_s: float) -> None:
    runner.call_s = call_s
    found = measure_files({"a": Path("a.so")}, (1, 3), get_target("x86"))
    job, rounds, deadline_s = runner.asked[-1]
    calls = job.repeats + job.warmup
    assert deadline_s >= measure.PATIENCE * calls * call_s
    # At most what all turns may take and one turn more, unless three turns of four calls take longer.
    assert rounds * calls * call_s <= max(measure.TOTAL_S + 1.2 * measure.TURN_S, 12 * call_s)
    assert len(found["a"].samples_s) == job.repeats * rounds >= measure.LEAST**2


def test_a_network_that_fails_is_named(runner: type[FakeRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "run", lambda self, passes: iter([Failure(passes[0][0].key, "died of SIGSEGV")]))
    with pytest.raises(MeasureError, match=r"winner could not be measured on x86: died of SIGSEGV\.$"):
        measure_files({"winner": Path("a.so")}, (1, 3), get_target("x86"))
    monkeypatch.setattr(runner, "at_once", False)
    with pytest.raises(MeasureError, match=r"SIGSEGV\. To measure it once more, remove the folder of its bundle"):
        measure_files({"winner": Path("a")}, (1, 3), get_target("x86"))


def test_what_is_away_is_asked_for_once(runner: type[FakeRunner], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "at_once", False)
    found = measure_files({"a": Path("a"), "b": Path("b")}, (1, 3), get_target("x86"))
    turns = measure.NETWORK_ROUNDS
    assert [job.key for job, *_ in runner.asked] == ["a", "b"] * turns
    assert {len(timing.samples_s) for timing in found.values()} == {measure.AWAY_REPEATS * turns}


def test_what_is_the_same_each_time_is_asked_for_once(
    runner: type[FakeRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "exact", True)
    found = measure_files({"a": Path("a"), "b": Path("b")}, (1, 3), get_target("x86"))
    assert [(job.key, job.warmup, rounds) for job, rounds, _ in runner.asked] == [("a", 0, 1), ("b", 0, 1)]
    assert {timing.samples_s for timing in found.values()} == {(runner.call_s,)}


def test_an_artefact_without_what_the_runner_takes(tmp_path: Path) -> None:
    (tmp_path / "model.so").touch()
    assert what_runs(tmp_path, get_target("x86")) == tmp_path / "model.so"
    with pytest.raises(
        MeasureError, match=r"has no netbench, and bundle:.*there measures nothing else\. Compile it again"
    ):
        what_runs(tmp_path, get_target("raspberry-pi-4@bundle:there"))


@pytest.mark.compiles
def test_whole_networks_are_built_and_measured_here() -> None:
    """Their names say nothing of files."""
    space = replace(DIGITS, stages=DIGITS.stages[:1])
    found = measure_networks({"mobilenet_v2@1.4": space.baseline, "b": space.baseline}, get_target("x86"))
    assert set(found) == {"mobilenet_v2@1.4", "b"}
    assert all(0 < seconds < 1 for seconds in found.values())


def test_other_classes_evict_the_same() -> None:
    for space in (DIGITS, CIFAR):
        assert calibration.evict_bytes(space.with_classes(77)) == calibration.evict_bytes(space) > 0


@pytest.mark.parametrize("space", [DIGITS, CIFAR, IMAGENET], ids=lambda space: space.name)
def test_heavy_networks_have_more_weights_than_any_of_the_space(space: SearchSpace) -> None:
    random = Random(0)
    heaviest = calibration.heaviest_bytes(space)
    drawn = [space.baseline, *(space.random_architecture(random) for _ in range(50))]
    assert max(network_weight_bytes(net.op_specs()) for net in drawn) <= heaviest
    # The convolutions with most weights, and the baseline.
    greedy = space.architecture([Choice(max(space.kernels), max(space.expands))] * len(space.blocks))
    assert heaviest == max(network_weight_bytes(net.op_specs()) for net in (greedy, space.baseline))
    heavy = calibration.heavy_networks(space, 5, random)
    assert len(set(heavy)) == 5
    assert min(map(network_weight_bytes, heavy)) > heaviest


def relu(inputs: Sequence[Tensor], outputs: Sequence[Tensor], weights: Sequence[str] = ()) -> ModelProto:
    def infos(tensors: Sequence[Tensor]) -> list[Any]:
        return [helper.make_tensor_value_info(name, kind, [1, 3, 8, 8]) for name, kind in tensors]

    constants = [numpy_helper.from_array(np.zeros(1, np.float32), name) for name in weights]
    return helper.make_model(helper.make_graph([], "g", infos(inputs), infos(outputs), constants))


def test_the_shape_of_the_one_input() -> None:
    image, weight, logits = (("image", TensorProto.FLOAT), ("w", TensorProto.FLOAT), ("logits", TensorProto.FLOAT))
    assert input_shape_of(relu([image], [logits])) == (1, 3, 8, 8)
    assert input_shape_of(relu([weight, image], [logits], weights=["w"])) == (1, 3, 8, 8)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ([], ["logits"], r"has nothing in and logits \(float\) out"),
        (["image", "mask"], ["logits"], r"has image \(float\), mask \(float\) in and logits \(float\) out"),
        (["image"], ["logits", "aux"], r"has image \(float\) in and logits \(float\), aux \(float\) out"),
        (["image"], [], r"has image \(float\) in and nothing out"),
    ],
)
def test_only_one_in_and_one_out(inputs: list[str], outputs: list[str], message: str) -> None:
    model = relu(*([(name, TensorProto.FLOAT) for name in names] for names in (inputs, outputs)))
    with pytest.raises(LoweringError, match=message + r"\. Netlathe compiles one float32 image in, one tensor out"):
        input_shape_of(model)


def test_only_float32() -> None:
    with pytest.raises(LoweringError, match=r"has image \(uint8\) in and logits \(float\) out"):
        input_shape_of(relu([("image", TensorProto.UINT8)], [("logits", TensorProto.FLOAT)]))


@pytest.fixture
def calibrated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A calibration of the digits space whose first operator is measured and the others predicted."""
    target = get_target("x86")
    sources = ["measured"] + ["predicted"] * (len(DIGITS.op_specs()) - 1)
    entries = {op.key: Entry(1e-5, 0.0, source, 1e-5) for op, source in zip(DIGITS.op_specs(), sources)}  # type: ignore[arg-type]
    table = LatencyTable(target_name="x86", fingerprint=target.fingerprint, entries=entries)
    model = SimpleNamespace(
        save=lambda path: path.touch(),
        predict=lambda op: Entry(1e-5, 0.0, "predicted", 1e-5),
        outside=lambda op: {},
    )
    scores = Scores.of([1.0], [1.0])
    accuracy = Accuracy(blocks=scores, model=scores, networks=scores, baselines={}, noise=0.0)
    monkeypatch.setattr(CostModel, "load", lambda path, target: model)
    folder = calibration_folder(tmp_path / "m.sqlite", target, "digits")
    found: Any = SimpleNamespace(table=table, model=model, accuracy=accuracy)
    held_out = (calibration.HeldOut("a net", 1e-3, 1.1e-3),)
    save_calibration(calibration.SpaceCalibration(found, held_out, baseline_s=None), folder, target)
    return folder


def test_a_calibration_is_found_again(calibrated: Path) -> None:
    table, _ = load_calibration(calibrated, get_target("x86"))
    assert len(table.entries) == len(DIGITS.op_specs())


def test_calibrations_of_other_threads_stand_apart(tmp_path: Path) -> None:
    target = get_target("x86")
    folders = {calibration_folder(tmp_path / "m", replace(target, threads=n), "digits") for n in (1, 2)}
    assert len(folders) == 2


@pytest.mark.parametrize("versions", [[0, "0.27.0"], None])
def test_a_calibration_of_other_versions_is_refused(calibrated: Path, versions: object) -> None:
    (calibrated / "versions.json").write_text(json.dumps({"versions": versions}))
    with pytest.raises(MeasureError, match=r"made with other versions .* Calibrate again: `netlathe calibrate --targ"):
        load_calibration(calibrated, get_target("x86"))


def test_a_calibration_of_another_machine_is_refused(calibrated: Path) -> None:
    with pytest.raises(MeasureError, match=r"was made on x86 .*; this is x86 another CPU .* Calibrate again"):
        load_calibration(calibrated, replace(get_target("x86"), cpu_model="another CPU"))


def test_no_calibration(tmp_path: Path) -> None:
    with pytest.raises(
        MeasureError, match=r"no calibration for space digits with 1 thread\(s\) and float32 weights. Run `netl"
    ):
        load_calibration(tmp_path / "digits", get_target("x86"))


@pytest.mark.parametrize(
    ("asked", "options"),
    [
        (("cifar",), "--space cifar"),
        (("cifar", 48, 0.5), "--space cifar --resolution 48 --width 0.5"),
        (("my spaces/leaves.toml",), "--space 'my spaces/leaves.toml'"),
    ],
)
def test_what_to_type_for_a_calibration_names_the_space_as_it_was_asked_for(
    tmp_path: Path, asked: tuple[Any, ...], options: str
) -> None:
    with pytest.raises(MeasureError, match=rf"Run `netlathe calibrate --target x86 {options} --threads 1` first"):
        load_calibration(tmp_path / "cifar@0.5-r48", get_target("x86"), asked=space_options(*asked))


def test_predicted_entries_do_not_count_as_measured(calibrated: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(DIGITS.baseline.to_json()))
    found = api.predict(str(tmp_path / "mine.json"), database=calibrated.parents[2] / "m.sqlite")
    assert found["measured_operators"] == sum(op == DIGITS.op_specs()[0] for op in DIGITS.baseline.op_specs()) == 1


@pytest.mark.parametrize("damage", ["latency_table.json", "cost_model.json", "versions.json"])
def test_a_calibration_that_does_not_hold_is_no_prediction(
    calibrated: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    def refuse(path: Path, target: Target) -> None:
        raise CostModelError("damaged")

    net, target = artefacts.Net("n", DIGITS.baseline), get_target("x86")
    monkeypatch.setattr(artefacts, "default_database", lambda: calibrated.parents[2] / "m.sqlite")
    assert artefacts._predicted_s(net, target, "float32") is not None
    (calibrated / damage).write_text("{")
    if damage == "cost_model.json":
        monkeypatch.setattr(CostModel, "load", refuse)
    assert artefacts._predicted_s(net, target, "float32") is None
