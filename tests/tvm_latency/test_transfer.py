"""Operators of one machine and networks of another give the latencies of the other."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import numpy as np
import pytest

from supernet.presets import IMAGENET
from targets.target import Target
from tvm_latency.correction import CorrectionError
from tvm_latency.drift import Steady
from tvm_latency.features import TERMS, terms
from tvm_latency.fitting import Fitted, Measured, fit
from tvm_latency.opspec import OpSpec
from tvm_latency.overflow import Overflow
from tvm_latency.transfer import transfer

THERE = Target(
    name="there",
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
HERE = replace(THERE, name="here", mcpu="x86-64-v3", vector_bits=256, vector_registers=16)
OPS = IMAGENET.op_specs()
BLOCK = next(op for op in OPS if op.kind == "mbconv" and op.height == 14)
_RANDOM = Random(0)
NETS = [IMAGENET.random_architecture(_RANDOM).op_specs() for _ in range(50)]


def seconds(op: OpSpec, multiplication_s: float) -> float:
    """A machine of one microsecond a kernel, 20 GB/s and so long a vector multiplication."""
    units = {"issues": multiplication_s, "bytes": 5e-11, "kernels": 1e-6}
    return sum(units[name.rpartition("_")[2]] * work for name, work in zip(TERMS, terms(op, THERE)))


def network_seconds(net: tuple[OpSpec, ...], multiplication_s: float) -> float:
    return sum(seconds(op, multiplication_s) for op in net)


@pytest.fixture(scope="module")
def source() -> Fitted:
    """A machine of four multiplications a nanosecond."""
    ops = {op: Steady(seconds(op, 2.5e-10), 0.0) for op in OPS}
    return fit(Measured(ops, {net: Steady(network_seconds(net, 2.5e-10), 0.0) for net in NETS}), THERE)


def measured(multiplication_s: float, count: int = 40) -> dict[tuple[OpSpec, ...], Steady]:
    return {net: Steady(network_seconds(net, multiplication_s), 0.0) for net in NETS[:count]}


@pytest.mark.parametrize("times", [0.5, 2.0, 10.0])
def test_a_machine_that_multiplies_at_another_speed_is_found_from_its_networks(source: Fitted, times: float) -> None:
    found = transfer(source, OPS, measured(times * 2.5e-10), HERE)
    misses = [found.table.network_seconds(net) / network_seconds(net, times * 2.5e-10) - 1 for net in NETS[40:]]
    assert np.abs(misses).max() < 0.02
    # What is in every network alike, as its first block, cannot be told apart; what differs can.
    blocks = [op for op in OPS if op.kind == "mbconv"]
    blocks_off = [found.table.entry(op).network_s / seconds(op, times * 2.5e-10) - 1 for op in blocks]
    assert np.quantile(np.abs(blocks_off), 0.9) < 0.1


def test_what_was_not_measured_is_no_measurement(source: Fitted) -> None:
    stranger = replace(BLOCK, in_channels=BLOCK.in_channels + 8)
    found = transfer(source, OPS, measured(5e-10), HERE, others=[stranger])
    assert {entry.source for entry in found.table.entries.values()} == {"predicted"}
    assert found.table.fingerprint == HERE.fingerprint
    assert found.table.entry(stranger).network_s == pytest.approx(seconds(stranger, 5e-10), rel=0.15)
    assert found.model.target == HERE


def test_it_takes_networks(source: Fitted) -> None:
    with pytest.raises(CorrectionError, match="at least two measured networks, got 1"):
        transfer(source, OPS, measured(5e-10, count=1), HERE)


def test_what_weights_cost_beyond_the_space_goes_with_what_they_cost_within(source: Fitted) -> None:
    """A machine that multiplies four times as slowly has the same memory, though networks take three times as long.

    What makes networks slow is told apart as far as they differ, and the prior pulls all kinds of work together.
    """
    heavy = replace(source, table=replace(source.table, overflow=Overflow(2e7, 4e-11, 1e-11, 3e7, 0.05)))
    slow, much_slower = (transfer(heavy, OPS, nets, HERE).table.overflow for nets in (measured(1e-9), slower(4.0)))
    assert (slow.above_bytes, slow.most_bytes, slow.share) == (2e7, 3e7, 0.05)
    assert 4e-11 <= slow.seconds_per_byte < 2 * 4e-11
    assert slow.spread_s_per_byte == pytest.approx(slow.seconds_per_byte / 4)
    assert much_slower.seconds_per_byte == pytest.approx(4 * 4e-11, rel=0.3)


def slower(times: float) -> dict[tuple[OpSpec, ...], Steady]:
    return {net: Steady(times * found.seconds, 0.0) for net, found in measured(2.5e-10).items()}
