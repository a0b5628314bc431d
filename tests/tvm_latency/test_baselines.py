"""The baselines are what they say, and are fitted to what they should be."""

from __future__ import annotations

from random import Random

import pytest

from supernet.presets import DIGITS
from targets.registry import get_target
from tvm_latency.baselines import FlopsLinear, NetworkPredictor, RandomForest, SumOfBlocks
from tvm_latency.opspec import OpSpec

RANDOM = Random(0)
NETS = [DIGITS.random_architecture(RANDOM).op_specs() for _ in range(40)]


def seconds(net: tuple[OpSpec, ...]) -> float:
    return 5e-5 + sum(op.flops for op in net) / 40e9


def test_a_line_over_flops_finds_the_line() -> None:
    line = FlopsLinear.fit(NETS[:10], [seconds(net) for net in NETS[:10]])
    assert line.offset_s == pytest.approx(5e-5)
    assert line.seconds_per_flop == pytest.approx(1 / 40e9)
    assert line.network_seconds(NETS[20]) == pytest.approx(seconds(NETS[20]))


def test_the_sum_adds_up_every_operator_as_often_as_it_runs() -> None:
    alone = {op.key: 1e-6 * (number + 1) for number, op in enumerate(DIGITS.op_specs())}
    net = NETS[0]
    assert SumOfBlocks(alone).network_seconds(net) == sum(alone[op.key] for op in net)


def test_the_forest_learns_more_than_the_mean() -> None:
    target = get_target("x86")
    forest: NetworkPredictor = RandomForest.fit(NETS[:30], [seconds(net) for net in NETS[:30]], target)
    mean = sum(map(seconds, NETS[:30])) / 30
    misses = [abs(forest.network_seconds(net) - seconds(net)) for net in NETS[30:]]
    assert sum(misses) < 0.7 * sum(abs(mean - seconds(net)) for net in NETS[30:])
    again = RandomForest.fit(NETS[:30], [seconds(net) for net in NETS[:30]], target)
    assert again.network_seconds(NETS[35]) == forest.network_seconds(NETS[35])
