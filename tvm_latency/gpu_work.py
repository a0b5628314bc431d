"""How much work an operator is for a GPU, as the schedules cut it: clock cycles of its busiest multiprocessor."""

from __future__ import annotations

from targets.target import Target
from tvm_latency.opspec import OpSpec
from tvm_latency.schedules.gpu.tiles import (
    depthwise_cycles,
    depthwise_strip,
    find_tile,
    fma_warps,
    fused_cycles,
    fused_tile,
    product_tile,
)
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec


def kernels(op: OpSpec, target: Target) -> int:
    """Of an inverted residual."""
    return 2 + op.expands - (fused_tile(pair_of(op), target) is not None)


def product(pixels: int, channels: int, reduction: int, target: Target, *, pointwise: bool = True) -> float:
    """Of a matrix product; of a dense convolution as if it were one, which scalar units compute in every type."""
    find = find_tile if pointwise else product_tile
    return find(pixels, reduction, channels, target).cycles(pixels, reduction, channels, target)


def depthwise(op: OpSpec, out_pixels: int, target: Target) -> float:
    """Of the k x k convolution of each hidden channel by itself; what it adds to its product if both are one kernel."""
    pair = pair_of(op)
    if op.kind != "mbconv" or (tile := fused_tile(pair, target)) is None:
        return depthwise_cycles(pair.depthwise, target)
    return fused_cycles(tile, pair, target) - product(out_pixels, op.out_channels, op.hidden_channels, target)


def product_rows(pixels: int, channels: int, reduction: int, target: Target) -> int:
    """Pixels of a block."""
    return find_tile(pixels, reduction, channels, target).block_rows


def strip_rows(op: OpSpec, target: Target) -> int:
    """Pixels of a thread of the depthwise convolution."""
    return depthwise_strip(pair_of(op).depthwise, target)


def macs_per_issue(target: Target) -> int:
    """What all multiprocessors could do in a cycle, without their matrix units."""
    return target.cores * 32 * fma_warps(target)


def pair_of(op: OpSpec) -> BlockSpec:
    """What may be one kernel."""
    hidden, kernel = op.hidden_channels, op.kernel
    depthwise = ConvSpec(
        batch=op.batch,
        height=op.height,
        width=op.width,
        in_channels=hidden,
        out_channels=hidden,
        groups=hidden,
        kernel=(kernel, kernel),
        padding=kernel // 2,
        stride=op.stride,
    )
    project = ConvSpec(
        batch=op.batch, height=op.out_height, width=op.out_width, in_channels=hidden, out_channels=op.out_channels
    )
    return BlockSpec(expand=None, depthwise=depthwise, project=project)
