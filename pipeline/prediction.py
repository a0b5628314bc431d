"""Predict: the latency of a network by a calibration, what drives it, and where the calibration has seen no like."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.config import weight_type
from pipeline.machine import find_machine
from pipeline.nets import Net, input_shape_of, resolve_net, space_of
from pipeline.places import calibration_folder, default_database
from pipeline.saved_calibration import load_calibration, space_options
from supernet.space_file import find_space
from targets.target import DType, Target
from tvm_latency.cost_model import CostModel
from tvm_latency.latency_table import LatencyTable
from tvm_latency.opspec import OpSpec, WeightType, stored_as
from tvm_latency.recognise import Recognised, recognise

# What an explanation shows of each operator.
DRIVERS = 3


def predict(
    net: str,
    target: str = "x86",
    *,
    space: str | None = None,
    resolution: int | None = None,
    width: float = 1.0,
    threads: int = 1,
    weights: WeightType | None = None,
    dtype: DType = "float32",
    explain: bool = False,
    database: Path | None = None,
) -> dict[str, Any]:
    """The latency of a network by the calibration of a space, without compiling it; see `targets.unit` for the names.

    space, resolution, width: as for `calibrate`; the preset for images of the network's size unless given.

    `unlike` has the operators that are outside of what was measured, each with the features in which they are;
    `not_predicted` what no operator describes. With `explain`, `blocks` has every operator's share, and `overflow_ms`
    is what a network of more weights than any of the space takes beyond them.

    Raises:
        MeasureError: nothing that holds here was calibrated for that space on this target.
        SpaceError: there is no such space, or none for images of the network's size.
        LoweringError: an .onnx file that cannot be compiled.
    """
    found, machine = resolve_net(net), find_machine(target, threads, dtype)
    unit, weights = machine.unit, weight_type(weights, dtype)
    network, height = _operators(found, machine, weights)
    space = space or space_of(height, hint=" Name one with --space.")
    chosen = find_space(space).for_task(resolution=resolution, width=width)
    folder = calibration_folder(database or default_database(), machine, chosen.name, weights)
    table, model = load_calibration(folder, machine, weights, space_options(space, resolution, width))
    table = table.completed(network.ops, model.predict)
    prediction, measured = table.network(network.ops), [table.entry(op).source == "measured" for op in network.ops]
    result = {
        "net": found.name,
        "target": target,
        "weights": weights,
        "dtype": dtype,
        f"predicted_{unit.key}": 1e3 * prediction.mean_s,
        f"spread_{unit.key}": 1e3 * prediction.spread_s,
        "operators": len(network.ops),
        f"{unit.obtained}_operators": sum(measured),
        "macs": sum(op.macs for op in network.ops),
        "params": sum(op.params for op in network.ops),
        "unlike": _unlike(network.ops, table, model),
        "not_predicted": list(network.others),
    }
    if explain:
        result[f"overflow_{unit.key}"] = 1e3 * table.overflow_seconds(network.ops)
        result["blocks"] = [
            {
                "operator": op.key,
                unit.key: 1e3 * table.entry(op).network_s,
                "source": unit.source(table.entry(op).source),
                "drivers": _drivers(model, op),
            }
            for op in network.ops
        ]
    return result


def _operators(net: Net, target: Target, weights: WeightType) -> tuple[Recognised, int]:
    """What the network runs, and the height of its images."""
    if net.architecture is not None:
        return Recognised(
            stored_as(net.architecture.op_specs(), weights, target.batch), ()
        ), net.architecture.resolution
    model = net.of_batch(target.batch).model
    return recognise(model, target, weights), input_shape_of(model)[-2]


def _unlike(ops: Sequence[OpSpec], table: LatencyTable, model: CostModel) -> dict[str, dict[str, str]]:
    """Features in which operators, or the network as a whole, are outside of what was measured."""
    found = {op.key: outside for op in ops if (outside := model.outside(op))}
    heavy = table.overflow.outside(ops)
    return {**found, **({"network": {"weight_bytes": heavy}} if heavy else {})}


def _drivers(model: CostModel, op: OpSpec) -> str:
    """`project_issues 41 %, weight_bytes 30 %, expand_issues 12 %; useful_share x 1.08`: most first."""
    explanation = model.explain(op)
    total_s = sum(explanation.terms_s.values())
    terms = sorted(explanation.terms_s.items(), key=lambda term: -term[1])[:DRIVERS]
    feature, factor = max(explanation.factors.items(), key=lambda found: abs(found[1] - 1.0))
    shares = ", ".join(f"{name} {seconds / total_s:.0%}" for name, seconds in terms if seconds > 0)
    return f"{shares}; {feature} x {factor:.2f}"
