"""Depthwise convolution: channels in the vector lanes, a strip of output pixels in registers."""

from __future__ import annotations

from dataclasses import replace

from tvm import te

from targets.target import Target
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size
from tvm_latency.schedules.parts import (
    FLOAT,
    packed,
    padded,
    pixels_last,
    schedule_image,
    spread_over_threads,
    vectorize_columns,
    zero_padded,
)
from tvm_latency.schedules.threads import split_of
from tvm_latency.schedules.tiles import Tile, divisors, strip_tiles


def depthwise(spec: Spec, target: Target, tile: Tile | None = None) -> Kernel | None:
    """k x k convolution with one group for each channel.

    for n, channel_block, row_block:                                                          # on all threads
        padded[rows * stride + k - stride, width + 2 p, columns] = x with zeros around   # stays in the cache
        for row, strip:
            acc[rows, columns] = 0                                                        # registers
            for ky in k:                                                                  # unrolled, it is no faster
                for kx, s, v in unrolled(k, strip, columns / vector):
                    acc[s, v] += padded[row * stride + ky, s * stride + kx, v] * weights[ky, kx, v]
            y[row, strip, channel_block] = clip(acc + bias)
    """
    if not isinstance(spec, ConvSpec) or spec.groups == 1 or spec.groups != spec.in_channels:
        return None
    if spec.in_channels != spec.out_channels:
        return None
    tiles = _tiles(spec, target)
    tile = tile or tiles[0]

    def pack(weights: FloatArray) -> PackedArray:
        return packed(zero_padded(weights[:, 0], tile).transpose(1, 2, 0), spec.weights)

    return Kernel(
        name=f"depthwise_{spec.suffix}",
        make=lambda: _scheduled(spec, tile, target.threads),
        tiles=tiles,
        packs=(pack,),
    )


def _tiles(spec: ConvSpec, target: Target) -> tuple[Tile, ...]:
    """Each strip with row blocks for half the L1 cache, which is the default, half the L2 and an eighth of the L1."""
    budgets = (target.l1d_bytes // 2, target.l2_bytes // 2, target.l1d_bytes // 8)
    strips = strip_tiles(spec.out_width, spec.out_channels, target.lanes, target.vector_registers)
    split = split_of(spec, target.threads)
    most = split.share(spec.out_height, "pixels")
    tiles = (replace(strip, block=_row_block(spec, strip, bytes_, most)) for strip in strips for bytes_ in budgets)
    return tuple(dict.fromkeys(tiles))


def _row_block(spec: ConvSpec, tile: Tile, budget_bytes: int, most: int) -> int:
    """At most so many output rows whose padded input stays in the budget; rows that two blocks share are copied twice."""
    row_bytes = (spec.width + 2 * spec.padding) * tile.columns * 4
    fits = [
        rows
        for rows in divisors(spec.out_height, most)
        if ((rows - 1) * spec.stride + spec.kernel[0]) * row_bytes <= budget_bytes
    ]
    return fits[-1] if fits else 1


def _scheduled(spec: ConvSpec, tile: Tile, threads: int) -> object:
    channels = spec.out_channels
    width = tile.blocks(channels) * tile.columns
    kh, kw = spec.kernel
    x = te.placeholder((spec.batch, spec.height, spec.width, channels), FLOAT, "x")
    weights = te.placeholder((kh, kw, width), spec.weights, "weights")
    bias = te.placeholder((bias_size(channels),), FLOAT, "bias")
    out_shape = (spec.batch, spec.out_height, spec.out_width, channels)
    residual = te.placeholder(out_shape, FLOAT, "residual")
    margin = [0, spec.padding, spec.padding, 0]
    source = padded(x, margin, [*margin[:3], width - channels])
    ky, kx = te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    acc = te.compute(
        (*out_shape[:3], width),
        lambda n, y, q, c: te.sum(
            source[n, y * spec.stride + ky, q * spec.stride + kx, c] * weights[ky, kx, c].astype(FLOAT), axis=[ky, kx]
        ),
        name="acc",
    )
    s = schedule_image(spec, x, weights, bias, residual, acc)
    acc_block, y_block = s.get_sblock("acc"), s.get_sblock("y")
    first_reader = s.get_sblock("padded") if source is not x else acc_block
    pixels_last(s, spec, first_reader)
    image, row, pixel, channel = s.get_loops(y_block)
    channel_block, column = s.split(channel, [None, tile.columns])
    row_block, row = s.split(row, [None, tile.block])
    strip, pixel = s.split(pixel, [None, tile.rows])
    s.reorder(image, channel_block, row_block, row, strip, pixel, column)
    outer = spread_over_threads(s, split_of(spec, threads), image, row_block, channel_block)
    vectorize_columns(s, column, tile.store)
    s.unroll(pixel)
    s.compute_at(acc_block, strip, preserve_unit_loops=True)
    pixel, column, ky_loop, kx_loop = s.get_loops(acc_block)[-4:]
    s.reorder(ky_loop, kx_loop, pixel, column)
    vectorize_columns(s, column, tile.vector)
    s.unroll(pixel)
    s.unroll(kx_loop)
    s.decompose_reduction(acc_block, ky_loop)
    if source is not x:
        s.compute_at(first_reader, outer, preserve_unit_loops=True)
        vectorize_columns(s, s.get_loops(first_reader)[-1], tile.store)
    return s.mod["main"]
