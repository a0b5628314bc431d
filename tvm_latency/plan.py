"""What a calibration measures beside the operators of its space: the same kinds of operators at other widths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from tvm_latency.opspec import OpSpec

# Channels of a variation, as a share of the original's; kernels and expansions that published networks have.
NARROWEST, WIDEST = 0.5, 1.6
KERNELS, EXPANDS = (3, 5, 7), (1, 3, 4, 6)
_MULTIPLE = 8


@dataclass(frozen=True, kw_only=True)
class CalibrationPlan:
    """How much is measured.

    variations: operators at other widths than the space's, so that other networks can be predicted too.
    fit_networks: random networks that the correction is fitted to; test_networks: others, that it is judged by.
    heavy_networks: wider ones, with more weights than any network of the space; other networks have them too.
    """

    variations: int
    fit_networks: int
    test_networks: int
    heavy_networks: int = 0


# A run needs its own space alone, at once; who calibrates wants to know how good the model is, and other networks.
QUICK = CalibrationPlan(variations=0, fit_networks=12, test_networks=24)
FULL = CalibrationPlan(variations=100, fit_networks=54, test_networks=60, heavy_networks=6)
# Measurements for a transfer, if nothing else is asked for, and the share of them that judges it.
TRANSFERRED = 50
_TRANSFER_TEST = 0.2


def transfer_plan(measurements: int) -> CalibrationPlan:
    """So many networks in all; the operators of `FULL` are transferred and not measured."""
    test = max(1, round(_TRANSFER_TEST * measurements))
    return CalibrationPlan(variations=FULL.variations, fit_networks=measurements - test, test_networks=test)


def variations(ops: Sequence[OpSpec], count: int, random: Random) -> tuple[OpSpec, ...]:
    """`count` distinct operators, each like one of `ops` with other channels, kernel and expansion; none of `ops`."""
    found: dict[OpSpec, None] = {}
    while len(found) < count:
        varied = _varied(random.choice(ops), random)
        if varied not in ops:
            found[varied] = None
    return tuple(found)


def _varied(op: OpSpec, random: Random) -> OpSpec:
    def channels(original: int) -> int:
        return max(_MULTIPLE, round(original * random.uniform(NARROWEST, WIDEST) / _MULTIPLE) * _MULTIPLE)

    if op.kind == "pool":
        width = channels(op.in_channels)
        return replace(op, in_channels=width, out_channels=width)
    if op.kind == "linear":
        return replace(op, in_channels=channels(op.in_channels))
    # An image keeps its colours.
    source = op.in_channels if op.in_channels < _MULTIPLE else channels(op.in_channels)
    out = source if op.residual else channels(op.out_channels)
    if op.kind != "mbconv":
        return replace(op, in_channels=source, out_channels=out)
    kernel, expand = random.choice(KERNELS), random.choice(EXPANDS)
    return replace(op, in_channels=source, out_channels=out, kernel=kernel, expand=expand)
