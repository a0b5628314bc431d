"""Dense convolution: stems and k x k layers of any channel count."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tvm import te

from targets.target import Stored, Target
from tvm_latency.opspec import PLANAR_CHANNELS, WEIGHT_BYTES
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed
from tvm_latency.schedules.parts import (
    padded,
    pixels_last,
    schedule_image,
    spread_over_threads,
    vectorize_columns,
    zero_padded,
)
from tvm_latency.schedules.threads import Split, split_of
from tvm_latency.schedules.tiles import Product, Tile, matmul_tile, store_vector

# A stem's sums have 27 terms: with more vectors of them than this, filling and emptying the registers takes the time.
MAX_SHORT_SUMS = 16


def dense_conv(spec: Spec, target: Target) -> Kernel | None:
    """k x k convolution, one group, any stride and padding.

    padded = x with zeros around                                     # whole image
    for n, channel_block, row, strip:
        acc[rows, columns] = 0                                       # registers
        for ky: for kx: for i in in_channels:
            for s, v in unrolled(strip, columns / vector):
                acc[s, v] += padded[row * stride + ky, s * stride + kx, i] * weights[ky, kx, i, v]
        y[row, strip, channel_block] = clip(acc + bias + residual)

    Channels innermost: the pixels of a strip lie a power of two apart, and would push each other out of a cache with
    few ways before their next channel is read. A stem reads its planes in the order i, ky, kx, with kx unrolled.
    """
    if not isinstance(spec, ConvSpec) or spec.groups != 1:
        return None
    planar = spec.in_channels < PLANAR_CHANNELS
    k = spec.in_channels * spec.kernel[0] * spec.kernel[1]
    product = Product.on(target, spec.out_width, k, spec.out_channels, by_lane=False)
    most_sums = MAX_SHORT_SUMS if planar else None
    tile = matmul_tile(product, target.lanes, target.vector_registers, even=True, most_sums=most_sums)

    def pack(weights: FloatArray) -> PackedArray:
        panels = zero_padded(weights, tile).reshape(-1, tile.columns, *weights.shape[1:])
        return packed(panels.transpose((0, 2, 3, 4, 1) if planar else (0, 3, 4, 2, 1)), spec.weights)

    return Kernel(
        name=f"dense_conv_{spec.suffix}",
        make=lambda: _scheduled(spec, tile, planar, dense_split(spec, target), target.stored),
        packs=(pack,),
        dtype=target.stored,
        input_layout="NCHW" if planar else "pixels",
    )


def dense_split(spec: ConvSpec, target: Target) -> Split:
    """How threads share it, and what is outermost for one alone.

    With rows outermost all weights are read for each of them: where they do not stay in the cache, it is channels.
    """
    split = split_of(spec, target.threads)
    weights = spec.macs // spec.out_pixels * WEIGHT_BYTES[spec.weights]
    return split if weights <= target.l2_bytes // 2 else replace(split, axis="channels")


def _scheduled(spec: ConvSpec, tile: Tile, planar: bool, split: Split, dtype: Stored) -> object:
    kh, kw = spec.kernel
    channels_in, channels = spec.in_channels, spec.out_channels
    image_shape = (spec.height, spec.width)
    x_shape = (spec.batch, channels_in, *image_shape) if planar else (spec.batch, *image_shape, channels_in)
    x = te.placeholder(x_shape, "float32" if planar else dtype, "x")
    taps = (channels_in, kh, kw) if planar else (kh, kw, channels_in)
    weights = te.placeholder((tile.blocks(channels), *taps, tile.columns), spec.weights, "weights")
    singles = weights
    if planar and spec.weights != dtype:  # a stem's few, once, before all else
        singles = te.compute(weights.shape, lambda *i: weights[i].astype(dtype), name="singles")
    bias = te.placeholder((bias_size(channels, dtype),), dtype, "bias")
    out_shape = (spec.batch, spec.out_height, spec.out_width, channels)
    residual = te.placeholder(out_shape, dtype, "residual")
    margin = [spec.padding if axis in ((2, 3) if planar else (1, 2)) else 0 for axis in range(4)]
    source = padded(x, margin, margin, dtype)
    i, ky, kx = te.reduce_axis((0, channels_in), "i"), te.reduce_axis((0, kh), "ky"), te.reduce_axis((0, kw), "kx")
    order = [i, ky, kx] if planar else [ky, kx, i]

    def product(n: Any, y: Any, q: Any, c: Any) -> Any:
        row, column = y * spec.stride + ky, q * spec.stride + kx
        value = source[n, i, row, column] if planar else source[n, row, column, i]
        index = (c // tile.columns, *order, c % tile.columns)
        return te.sum(value.astype(dtype) * singles[index].astype(dtype), axis=order)

    acc = te.compute((*out_shape[:3], tile.blocks(channels) * tile.columns), product, name="acc")
    s = schedule_image(spec, x, weights, bias, residual, acc)
    acc_block, y_block = s.get_sblock("acc"), s.get_sblock("y")
    if spec.padding:
        # Along the width: what lies inside is copied without a condition for each pixel.
        s.annotate(s.get_loops(s.get_sblock("padded"))[-1 if planar else -2], "pragma_loop_partition_hint", 1)
    first_reader = s.get_sblock("padded") if spec.padding else acc_block
    pixels_last(s, spec, None if planar else first_reader)
    image, row, pixel, channel = s.get_loops(y_block)
    channel_block, column = s.split(channel, [None, tile.columns])
    strip, pixel = s.split(pixel, [None, tile.rows])
    s.reorder(image, channel_block, row, strip, pixel, column)
    spread_over_threads(s, split, image, row, channel_block)
    vectorize_columns(s, column, store_vector(channels, tile.vector))
    s.unroll(pixel)
    s.compute_at(acc_block, strip, preserve_unit_loops=True)
    pixel, column, *taps_loops = s.get_loops(acc_block)[-5:]
    s.reorder(*taps_loops, pixel, column)
    vectorize_columns(s, column, tile.vector)
    s.unroll(pixel)
    if planar:
        s.unroll(taps_loops[-1])
    if singles is not weights:
        vectorize_columns(s, s.get_loops(s.get_sblock("singles"))[-1], tile.vector)
    s.decompose_reduction(acc_block, taps_loops[0])
    return s.mod["main"]
