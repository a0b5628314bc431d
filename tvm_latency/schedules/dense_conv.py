"""Dense convolution: stems and k x k layers of any channel count."""

from __future__ import annotations

from typing import Any

from tvm import te

from targets.target import Target
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec
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
from tvm_latency.schedules.tiles import Tile, strip_tiles

# A stem reads its image as it comes: with fewer input channels than this, turning it into [pixels, channels] first
# costs more than reading it once in planes.
PLANAR_CHANNELS = 8


def dense_conv(spec: Spec, target: Target, tile: Tile | None = None) -> Kernel | None:
    """k x k convolution, one group, any stride and padding.

    padded = x with zeros around                                     # whole image
    for n, channel_block, row, strip:
        acc[rows, columns] = 0                                       # registers
        for i in in_channels: for ky:
            for kx, s, v in unrolled(k, strip, columns / vector):
                acc[s, v] += padded[row * stride + ky, s * stride + kx, i] * weights[i, ky, kx, v]
        y[row, strip, channel_block] = clip(acc + bias + residual)
    """
    if not isinstance(spec, ConvSpec) or spec.groups != 1:
        return None
    tiles = strip_tiles(spec.out_width, spec.out_channels, target.lanes, target.vector_registers)
    tile = tile or tiles[0]
    planar = spec.in_channels < PLANAR_CHANNELS

    def pack(weights: FloatArray) -> PackedArray:
        panels = zero_padded(weights, tile).reshape(-1, tile.columns, *weights.shape[1:])
        return packed(panels.transpose(0, 2, 3, 4, 1), spec.weights)

    return Kernel(
        name=f"dense_conv_{spec.suffix}",
        make=lambda: _scheduled(spec, tile, planar, target.threads),
        tiles=tiles,
        packs=(pack,),
        input_layout="NCHW" if planar else "pixels",
    )


def _scheduled(spec: ConvSpec, tile: Tile, planar: bool, threads: int) -> object:
    kh, kw = spec.kernel
    channels_in, channels = spec.in_channels, spec.out_channels
    image_shape = (spec.height, spec.width)
    x_shape = (spec.batch, channels_in, *image_shape) if planar else (spec.batch, *image_shape, channels_in)
    x = te.placeholder(x_shape, FLOAT, "x")
    weights = te.placeholder((tile.blocks(channels), channels_in, kh, kw, tile.columns), spec.weights, "weights")
    bias = te.placeholder((channels,), FLOAT, "bias")
    out_shape = (spec.batch, spec.out_height, spec.out_width, channels)
    residual = te.placeholder(out_shape, FLOAT, "residual")
    margin = [spec.padding if axis in ((2, 3) if planar else (1, 2)) else 0 for axis in range(4)]
    source = padded(x, margin, margin)
    i, ky, kx = te.reduce_axis((0, channels_in), "i"), te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")

    def product(n: Any, y: Any, q: Any, c: Any) -> Any:
        row, column = y * spec.stride + ky, q * spec.stride + kx
        value = source[n, i, row, column] if planar else source[n, row, column, i]
        weight = weights[c // tile.columns, i, ky, kx, c % tile.columns].astype(FLOAT)
        return te.sum(value * weight, axis=[i, ky, kx])

    acc = te.compute((*out_shape[:3], tile.blocks(channels) * tile.columns), product, name="acc")
    s = schedule_image(spec, x, weights, bias, residual, acc)
    acc_block, y_block = s.get_sblock("acc"), s.get_sblock("y")
    first_reader = s.get_sblock("padded") if spec.padding else acc_block
    pixels_last(s, spec, None if planar else first_reader)
    image, row, pixel, channel = s.get_loops(y_block)
    channel_block, column = s.split(channel, [None, tile.columns])
    strip, pixel = s.split(pixel, [None, tile.rows])
    s.reorder(image, channel_block, row, strip, pixel, column)
    spread_over_threads(s, (image, channel_block, row), spec.macs, threads)
    vectorize_columns(s, column, tile.store)
    s.unroll(pixel)
    s.compute_at(acc_block, strip, preserve_unit_loops=True)
    pixel, column, i_loop, ky_loop, kx_loop = s.get_loops(acc_block)[-5:]
    s.reorder(i_loop, ky_loop, kx_loop, pixel, column)
    vectorize_columns(s, column, tile.vector)
    s.unroll(pixel)
    s.unroll(kx_loop)
    s.decompose_reduction(acc_block, i_loop)
    return s.mod["main"]
