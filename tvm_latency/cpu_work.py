"""How much work an operator is for a CPU, as the schedules cut it: multiply-add slots of one core's vector units."""

from __future__ import annotations

from math import ceil

from targets.target import Target
from tvm_latency.opspec import OpSpec
from tvm_latency.schedules.tiles import FMA_IN_FLIGHT, Product, Tile, matmul_tile, ring_tile


def kernels(op: OpSpec, target: Target) -> int:
    """Of an inverted residual, as loops: which of them are one function changes little here."""
    return 2 + op.expands


def product(pixels: int, channels: int, reduction: int, target: Target, *, pointwise: bool = True) -> float:
    """Of a matrix product, or of a dense convolution as one."""
    tile = _product_tile(pixels, reduction, channels, target, pointwise)
    return _issues(pixels, channels, reduction, tile, tile.columns)


def depthwise(op: OpSpec, out_pixels: int, target: Target) -> float:
    """Of the k x k convolution of each hidden channel by itself."""
    tile = _strip_tile(op, target)
    return _issues(out_pixels, op.hidden_channels, op.kernel**2, tile, tile.vector)


def product_rows(pixels: int, channels: int, reduction: int, target: Target) -> int:
    """Pixels of a tile."""
    return _product_tile(pixels, reduction, channels, target, True).rows


def strip_rows(op: OpSpec, target: Target) -> int:
    """Pixels of a strip of the depthwise convolution."""
    return _strip_tile(op, target).rows


def macs_per_issue(target: Target) -> int:
    """What a slot could do."""
    return target.lanes


def _issues(outputs: int, channels: int, reduction: int, tile: Tile, columns: int) -> float:
    """Vector multiply-add slots of a loop nest, those that wait for a result or compute on padding included.

    columns: of the sums that are in flight at once.
    """
    vectors, groups = ceil(channels / tile.vector), ceil(channels / columns)
    return outputs / tile.rows * reduction * max(tile.rows * vectors, FMA_IN_FLIGHT * groups)


def _product_tile(pixels: int, reduction: int, channels: int, target: Target, by_lane: bool) -> Tile:
    shape = Product.on(target, pixels, reduction, channels, by_lane=by_lane)
    return matmul_tile(shape, target.lanes, target.vector_registers)


def _strip_tile(op: OpSpec, target: Target) -> Tile:
    row_bytes = op.kernel * (op.width + op.kernel - 1) * target.number_bytes
    return ring_tile(op.out_width, op.hidden_channels, row_bytes, target)
