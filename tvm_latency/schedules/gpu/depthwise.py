"""Depthwise convolution on a GPU: a thread has a few channels of a few pixels side by side."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.gpu.grid import (
    SUM,
    Output,
    copy,
    digits,
    dtype_of,
    grid,
    kernel_function,
    lanes_of,
    part,
    registers,
    where,
    zeros,
)
from tvm_latency.schedules.gpu.tiles import depthwise_strip
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed
from tvm_latency.schedules.loops import as_type

THREADS = 128


def depthwise(spec: Spec, target: Target) -> Kernel | None:
    """k x k convolution with one group for each channel.

    for thread in image, row, strip of pixels, vector of channels:        # channels side by side in a warp
        acc[strip, channels] = 0                                          # registers
        for ky in k:
            taps[k, channels] = taps[ky]
            for column in strip * stride + k - stride:
                value[channels] = x[row * stride + ky - padding, column]  # 0 outside the image
                for the pixels of the strip that it belongs to: acc[pixel] += value * taps[kx]
        y[row, strip] = clip(acc + bias + residual)
    """
    if not isinstance(spec, ConvSpec) or spec.groups == 1 or spec.groups != spec.in_channels:
        return None
    if spec.in_channels != spec.out_channels:
        return None
    return Kernel(
        name=f"depthwise_{spec.suffix}",
        make=lambda: kernel_function(partial(_declare, spec, target)),
        packs=(partial(pack_taps, stored=spec.weights),),
        dtype=target.stored,
    )


def pack_taps(weights: FloatArray, stored: WeightType) -> PackedArray:
    """[channels, 1, k, k]  -->  [k, k, channels]."""
    return packed(weights[:, 0].transpose(1, 2, 0), stored)


def _declare(spec: ConvSpec, target: Target) -> None:
    """func(x, taps, bias, [residual], y)."""
    channels, dtype = spec.in_channels, target.stored
    x = build.arg("x", build.buffer([spec.batch * spec.height * spec.width, channels], dtype))
    taps = build.arg("taps", build.buffer([*spec.kernel, channels], spec.weights))
    bias = build.arg("bias", build.buffer([bias_size(channels, dtype)], dtype))
    residual = build.arg("residual", build.buffer([spec.out_pixels, channels], dtype)) if spec.residual else None
    output = Output(spec, build.arg("y", build.buffer([spec.out_pixels, channels], dtype)), bias, residual)

    lanes = lanes_of(channels, target.number_bytes)
    vectors, rows = channels // lanes, spec.batch * spec.out_height
    pixels = depthwise_strip(spec, target)
    strips = -(-spec.out_width // pixels)
    total = rows * strips * vectors
    with grid(-(-total // THREADS), THREADS) as (block, thread):
        number = block * THREADS + thread
        with where(number < total if total % THREADS else None):
            image, row, column, vector = digits(number, spec.out_height, strips, vectors)
            strip(spec, x, taps, output, (image, row, column * pixels, vector * lanes), pixels, lanes)


class Sink(Protocol):
    """Where sums go."""

    def store(self, pixel: Any, channel: Any, lanes: int, value: Callable[[Any], Any]) -> None:
        """See `Output.store`."""


def strip(
    spec: ConvSpec, x: Any, taps: Any, output: Sink, place: tuple[Any, Any, Any, Any], pixels: int, lanes: int
) -> None:
    """So many pixels of a row from a place on: image, row, column, channel."""
    image, row, column, channel = place
    (height, width), k, stride = (spec.height, spec.width), spec.kernel, spec.stride
    acc = zeros(pixels, lanes)
    value, tap = registers(lanes, dtype=dtype_of(x)), registers(k[1], lanes, dtype=dtype_of(taps))
    first = column * stride - spec.padding
    with build.serial(k[0]) as ky:
        source_row = row * stride + ky - spec.padding
        with where(*((source_row >= 0, source_row < height) if spec.padding else ())):
            for kx in range(k[1]):
                copy(tap, [kx, 0], taps, [ky, kx, channel], lanes)
            for seen in range((pixels - 1) * stride + k[1]):
                uses = [(p, seen - p * stride) for p in range(pixels) if 0 <= seen - p * stride < k[1]]
                with where(_inside(first + seen, seen, spec, pixels)):
                    copy(value, [0], x, [(image * height + source_row) * width + first + seen, channel], lanes)
                    for p, kx in uses:
                        with build.unroll(lanes) as c:
                            product = as_type(value[c], SUM) * as_type(tap[kx, c], SUM)
                            build.buffer_store(acc, acc[p, c] + product, [p, c])
    for p in range(pixels):
        with where(column + p < spec.out_width if spec.out_width % pixels else None):
            pixel = (image * spec.out_height + row) * spec.out_width + column + p
            output.store(pixel, channel, lanes, part(acc, p, 0))


def _inside(at: Any, seen: int, spec: ConvSpec, pixels: int) -> Any:
    """Whether a column is one of the image; None where it always is."""
    left = seen < spec.padding
    last = (-(-spec.out_width // pixels) - 1) * pixels * spec.stride - spec.padding + seen
    conditions = ([at >= 0] if left else []) + ([at < spec.width] if last >= spec.width else [])
    return tirx.all(*conditions) if conditions else None
