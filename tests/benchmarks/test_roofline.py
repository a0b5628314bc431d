from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import roofline
from benchmarks.kernel_table import kernel_figures, shape_of
from benchmarks.loops import LOADS, STEPS, fma_chains, repeated_sum
from benchmarks.roofline import Roofline, RooflineError, TimedFunction
from supernet.presets import DIGITS
from targets.registry import get_target
from targets.target import Target
from tvm_latency.onnx_graph import network_graph
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, PoolSpec

BOUNDS = Roofline(
    threads=1, vector_bits=256, chains=8, flops=1e11, bytes_s={"l1": 1e11, "l2": 1e11, "l3": 1e11, "memory": 1e10}
)


@pytest.fixture(scope="module")
def target() -> Target:
    return get_target("x86")


@pytest.mark.compiles
def test_every_step_of_the_measuring_loops_is_done(target: Target) -> None:
    lanes = target.lanes
    arrays = [np.ones(shape, np.float32) for shape in ((lanes,), (lanes * 8,), (1, lanes * 8))]
    out = TimedFunction(fma_chains(lanes, 8, 1), arrays, target).output
    assert (out == 1 + STEPS).all()
    row = lanes * LOADS
    arrays = [np.ones(shape, np.float32) for shape in ((1, 5, row), (1, row))]
    out = TimedFunction(repeated_sum(lanes, 5, 3, 1), arrays, target).output
    assert (out == 15).all()


def test_a_loop_that_was_not_run_is_noticed(target: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "best_seconds", lambda *_: (1e-3, np.zeros(4)))
    with pytest.raises(RooflineError, match="answered 0 where 20001 is right"):
        roofline._fma_rate(target, 8)
    monkeypatch.setattr(roofline, "best_seconds", lambda *_: (1e-9, np.full(4, 1.0 + STEPS)))
    with pytest.raises(RooflineError, match="are more than any core can do"):
        roofline._fma_rate(target, 8)


def test_shapes_are_short() -> None:
    conv = ConvSpec(batch=1, height=14, width=14, in_channels=96, out_channels=576)
    depthwise = replace(conv, in_channels=576, kernel=(5, 5), stride=2, padding=2, groups=576)
    project = replace(conv, in_channels=576, out_channels=96, height=7, width=7, residual=True)
    assert shape_of(conv) == "14x14 96->576 k1 s1"
    assert shape_of(depthwise) == "14x14 576 k5 s2"
    block = BlockSpec(expand=conv, depthwise=depthwise, project=project)
    assert shape_of(block) == "14x14 96->576->96 k5 s2 + x"
    assert shape_of(PoolSpec(batch=1, height=7, width=7, channels=320)) == "7x7 320"


@pytest.mark.compiles
def test_every_kernel_of_a_network_has_a_row(target: Target) -> None:
    ops = DIGITS.baseline.op_specs()
    figures = kernel_figures(network_graph(ops), target, BOUNDS)
    rows = figures["kernels"]
    assert {"pointwise", "dense_conv", "mean_pool"} <= {row["kind"] for row in rows}
    multiplied = sum(row["calls"] * row["flops"] for row in rows if row["kind"] not in ("mean_pool", "fallback"))
    assert multiplied == 2 * sum(op.macs for op in ops)
    assert all(row["warm_s"] > 0 and row["traffic"] > 0 and row["bound_s"] > 0 for row in rows)
    warm_s = sum(row["calls"] * row["warm_s"] for row in rows)
    assert figures["kernels_warm_ms"] == pytest.approx(1e3 * warm_s)
    assert figures["network_ms"] > 0
