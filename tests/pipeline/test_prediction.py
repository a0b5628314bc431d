"""Predict: named networks and ONNX files alike, with what drives each operator and where the model has seen no like."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline import api
from pipeline.calibration import heaviest_bytes, heavy_networks
from pipeline.files import write_json
from pipeline.measure import code_versions
from pipeline.places import calibration_folder
from pipeline.saved_calibration import VERSIONS
from supernet.presets import DIGITS
from supernet.space import SpaceError
from targets.registry import get_target
from tvm_latency.drift import Steady
from tvm_latency.fitting import Measured, fit
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec, network_weight_bytes

BASELINE = DIGITS.baseline.op_specs()
(HEAVY,) = heavy_networks(DIGITS, 1, Random(0))


def alone_s(op: OpSpec) -> float:
    return 1e-6 + op.flops / 50e9


def measured() -> Measured:
    """The digits space; three networks are faster than their operators alone, and one and the heavy one are slower."""

    def network(net: tuple[OpSpec, ...], times: float) -> Steady:
        return Steady(times * sum(alone_s(op) for op in net), 0.0)

    nets = [DIGITS.random_architecture(Random(seed)).op_specs() for seed in range(4)]
    return Measured(
        {op: Steady(alone_s(op), 0.0) for op in DIGITS.op_specs()},
        {net: network(net, times) for net, times in zip(nets, (0.9, 0.95, 0.92, 1.1))},
        {HEAVY: network(HEAVY, 2.0)},
        heaviest_bytes(DIGITS),
    )


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibration of the digits space on the machine of `measured`."""
    path, target = tmp_path_factory.mktemp("data") / "m.sqlite", get_target("x86")
    folder = calibration_folder(path, target, "digits")
    folder.mkdir(parents=True)
    fitted = fit(measured(), target)
    fitted.table.save(folder / "latency_table.json")
    fitted.model.save(folder / "cost_model.json")
    write_json(folder / VERSIONS, {"versions": list(code_versions(target))})
    return path


def exported(path: Path, ops: tuple[OpSpec, ...]) -> str:
    onnx.save(network_graph(ops), path)
    return str(path)


def predicted(net: str, database: Path, **options: Any) -> dict[str, Any]:
    found = api.predict(net, database=database, **options)
    json.dumps(found, allow_nan=False)
    return found


def test_an_onnx_file_is_predicted_as_the_network_that_it_is(database: Path, tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(json.dumps(DIGITS.baseline.to_json()))
    by_architecture = predicted(str(tmp_path / "net.json"), database)
    by_file = predicted(exported(tmp_path / "net.onnx", BASELINE), database)
    for field in ("predicted_ms", "spread_ms", "operators", "measured_operators", "macs", "params"):
        assert by_file[field] == by_architecture[field]
    assert by_file["spread_ms"] > 0
    assert by_file["not_predicted"] == []


def test_an_explanation_adds_up_to_the_prediction(database: Path, tmp_path: Path) -> None:
    found = predicted(exported(tmp_path / "net.onnx", BASELINE), database, explain=True)
    assert [block["operator"] for block in found["blocks"]] == [op.key for op in BASELINE]
    assert sum(block["ms"] for block in found["blocks"]) == pytest.approx(found["predicted_ms"])
    assert found["overflow_ms"] == 0.0
    block = next(block for block in found["blocks"] if block["operator"].startswith("mbconv"))
    assert "_issues" in block["drivers"]
    assert " x " in block["drivers"]


def test_more_weights_than_any_network_of_the_space_take_longer(database: Path, tmp_path: Path) -> None:
    found = predicted(exported(tmp_path / "net.onnx", HEAVY), database, explain=True)
    assert [block["operator"] for block in found["blocks"]] == [op.key for op in HEAVY]
    assert found["overflow_ms"] > 0
    assert sum(block["ms"] for block in found["blocks"]) + found["overflow_ms"] == pytest.approx(found["predicted_ms"])
    assert found["predicted_ms"] == pytest.approx(2e3 * sum(map(alone_s, HEAVY)), rel=1e-6)
    assert "network" not in found["unlike"]
    place, residual = next((place, op) for place, op in enumerate(HEAVY) if op.residual)
    as_many = network_weight_bytes(HEAVY) // residual.weight_bytes
    deep = predicted(
        exported(tmp_path / "deep.onnx", (*HEAVY[:place], *[residual] * as_many, *HEAVY[place:])), database
    )
    assert "measured were networks of up to" in deep["unlike"]["network"]["weight_bytes"]


def test_what_is_unlike_all_measured_is_flagged_with_its_feature(database: Path, tmp_path: Path) -> None:
    wide = replace(BASELINE[0], out_channels=4096)
    found = predicted(exported(tmp_path / "net.onnx", (wide,)), database)
    assert "log_out_channels" in found["unlike"][wide.key]
    assert not predicted(exported(tmp_path / "own.onnx", DIGITS.fixed_ops()[:2]), database)["unlike"]


def test_what_nothing_predicts_is_named(database: Path, tmp_path: Path) -> None:
    model = network_graph(BASELINE)
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["shares"]))
    model.graph.output.pop()
    model.graph.output.append(helper.make_tensor_value_info("shares", TensorProto.FLOAT, [1, DIGITS.classes]))
    onnx.save(model, tmp_path / "net.onnx")
    found = predicted(str(tmp_path / "net.onnx"), database)
    assert (found["operators"], len(found["not_predicted"])) == (len(BASELINE), 1)


def test_a_file_of_a_size_that_no_space_has_asks_for_one(database: Path, tmp_path: Path) -> None:
    net = exported(tmp_path / "net.onnx", (replace(BASELINE[0], height=48, width=48),))
    with pytest.raises(SpaceError, match=r"images of 48 pixels .* Name one with --space"):
        predicted(net, database)
    assert predicted(net, database, space="digits")["predicted_ms"] > 0
