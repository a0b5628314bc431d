"""How much work an operator is for a GPU, as the schedules cut it: clock cycles of its busiest multiprocessor."""

from __future__ import annotations

from targets.target import Target
from tvm_latency.opspec import OpSpec
from tvm_latency.schedules.gpu.tiles import depthwise_cycles, depthwise_strip, find_tile, fma_warps, product_tile
from tvm_latency.schedules.kernel import ConvSpec


def product(pixels: int, channels: int, reduction: int, target: Target, *, pointwise: bool = True) -> float:
    """Of a matrix product; of a dense convolution as if it were one, which scalar units compute in every type."""
    find = find_tile if pointwise else product_tile
    return find(pixels, reduction, channels, target).cycles(pixels, reduction, channels, target)


def depthwise(op: OpSpec, out_pixels: int, target: Target) -> float:
    """Of the k x k convolution of each hidden channel by itself."""
    return depthwise_cycles(_convolution(op), target)


def product_rows(pixels: int, channels: int, reduction: int, target: Target) -> int:
    """Pixels of a block."""
    return find_tile(pixels, reduction, channels, target).block_rows


def strip_rows(op: OpSpec, target: Target) -> int:
    """Pixels of a thread of the depthwise convolution."""
    return depthwise_strip(_convolution(op), target)


def macs_per_issue(target: Target) -> int:
    """What all multiprocessors could do in a cycle, without their matrix units."""
    return target.cores * 32 * fma_warps(target)


def _convolution(op: OpSpec) -> ConvSpec:
    channels, kernel = op.hidden_channels, op.kernel
    return ConvSpec(
        batch=op.batch,
        height=op.height,
        width=op.width,
        in_channels=channels,
        out_channels=channels,
        groups=channels,
        kernel=(kernel, kernel),
        padding=kernel // 2,
        stride=op.stride,
    )
