"""Dense convolution on a GPU: stems and k x k layers of any channel count."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.opspec import PLANAR_CHANNELS, WeightType
from tvm_latency.schedules.gpu.grid import SUM, Output, digits, grid, kernel_function, loaded, part, where, zeros
from tvm_latency.schedules.gpu.tiles import COLUMNS
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed
from tvm_latency.schedules.loops import as_type

THREADS = 128


def dense_conv(spec: Spec, target: Target) -> Kernel | None:
    """k x k convolution, one group, any stride and padding.

    for thread in pixel, four channels of the output:                     # channels side by side in a warp
        acc[4] = 0                                                        # registers
        for ky: for kx: where the image is there:
            for i in in_channels: acc += x[pixel of the input, i] * weights[ky, kx, i]
        y[pixel] = clip(acc + bias + residual)

    A stem reads its image as it stands, in planes.
    """
    if not isinstance(spec, ConvSpec) or spec.groups != 1:
        return None
    planar = spec.in_channels < PLANAR_CHANNELS
    return Kernel(
        name=f"dense_conv_{spec.suffix}",
        make=lambda: kernel_function(partial(_declare, spec, target, planar)),
        packs=(partial(_pack, stored=spec.weights),),
        dtype=target.stored,
        input_layout="NCHW" if planar else "pixels",
    )


def _pack(weights: FloatArray, stored: WeightType) -> PackedArray:
    """[out, in, k, k]  -->  [k, k, in, out], filled up with zeros to whole vectors."""
    padded = np.pad(weights, ((0, -weights.shape[0] % COLUMNS), (0, 0), (0, 0), (0, 0)))
    return packed(padded.transpose(2, 3, 1, 0), stored)


def _declare(spec: ConvSpec, target: Target, planar: bool) -> None:
    """func(x, weights, bias, [residual], y)."""
    dtype, channels = target.stored, spec.out_channels
    vectors = -(-channels // COLUMNS)
    image_shape = [spec.batch, spec.in_channels, spec.height, spec.width]
    matrix_shape = [spec.batch * spec.height * spec.width, spec.in_channels]
    x = build.arg("x", build.buffer(image_shape, "float32") if planar else build.buffer(matrix_shape, dtype))
    weights = build.arg("weights", build.buffer([*spec.kernel, spec.in_channels, vectors * COLUMNS], spec.weights))
    bias = build.arg("bias", build.buffer([bias_size(channels, dtype)], dtype))
    residual = build.arg("residual", build.buffer([spec.out_pixels, channels], dtype)) if spec.residual else None
    output = Output(spec, build.arg("y", build.buffer([spec.out_pixels, channels], dtype)), bias, residual)

    total = spec.out_pixels * vectors
    with grid(-(-total // THREADS), THREADS) as (block, thread):
        number = block * THREADS + thread
        with where(number < total if total % THREADS else None):
            image, row, column, vector = digits(number, spec.out_height, spec.out_width, vectors)

            def read(y: Any, x_: Any, i: Any) -> Any:
                value = x[image, i, y, x_] if planar else x[(image * spec.height + y) * spec.width + x_, i]
                return as_type(value, SUM)

            acc = _sums(spec, read, weights, row, column, vector * COLUMNS)
            pixel = (image * spec.out_height + row) * spec.out_width + column
            output.store(pixel, vector * COLUMNS, COLUMNS, part(acc, 0))


def _sums(spec: ConvSpec, read: Any, weights: Any, row: Any, column: Any, channel: Any) -> Any:
    acc = zeros(COLUMNS)
    # All taps of a stem are loaded before the first is used.
    loop = build.unroll if spec.in_channels < PLANAR_CHANNELS else build.serial
    with loop(spec.kernel[0]) as ky, loop(spec.kernel[1]) as kx:
        y, x = row * spec.stride + ky - spec.padding, column * spec.stride + kx - spec.padding
        inside = (y >= 0, y < spec.height, x >= 0, x < spec.width)
        with where(*(inside if spec.padding else ())), loop(spec.in_channels) as i:
            weight, value = loaded(weights, [ky, kx, i, channel], COLUMNS), read(y, x, i)
            with build.unroll(COLUMNS) as c:
                build.buffer_store(acc, acc[c] + value * as_type(weight[c], SUM), [c])
    return acc
