"""Depthwise convolution: channels in the vector lanes, a strip of output pixels in registers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.opspec import WEIGHT_BYTES
from tvm_latency.schedules.kernel import ConvSpec, Kernel, Spec, bias_size
from tvm_latency.schedules.loops import to_multiply, whole_block
from tvm_latency.schedules.parts import clipped
from tvm_latency.schedules.prefetch import prefetch_weights
from tvm_latency.schedules.ring import Ring, pack_taps
from tvm_latency.schedules.threads import row_bands, split_of
from tvm_latency.schedules.tiles import Tile, ring_tile, terms_together


def depthwise(spec: Spec, target: Target) -> Kernel | None:
    """k x k convolution with one group for each channel.

    for band of rows:                                                     # one for each thread
        for block of channels:                                            # or for each thread some of these
            ring[k, width + 2 p, columns] = 0                             # stays in the level-1 cache
            for row of the output:
                prefetch(some of the next block's taps)
                for the rows of the input that it needs and the ring does not hold: ring[row % k] = x[row]
                for vector, strip:
                    acc[strip] = bias                                     # registers
                    for ky in k: for kx in k: for s in unrolled(strip):
                        acc[s] += ring[(row * stride + ky) % k, s * stride + kx, vector] * taps[ky, kx, vector]
                    y[row, strip, vector] = clip(acc + residual)
    """
    if not isinstance(spec, ConvSpec) or spec.groups == 1 or spec.groups != spec.in_channels:
        return None
    if spec.in_channels != spec.out_channels:
        return None
    tile = tile_of(spec, target)
    return Kernel(
        name=f"depthwise_{spec.suffix}",
        make=lambda: _function(spec, tile, target),
        packs=(partial(pack_taps, tile=tile, stored=spec.weights),),
        dtype=target.stored,
    )


def tile_of(spec: ConvSpec, target: Target) -> Tile:
    """The strip x block of a convolution, by what a row of its ring takes."""
    row_bytes = spec.kernel[0] * (spec.width + 2 * spec.padding) * target.number_bytes
    return ring_tile(spec.out_width, spec.in_channels, row_bytes, target)


def _function(spec: ConvSpec, tile: Tile, target: Target) -> Any:
    channels, dtype = spec.in_channels, target.stored
    block_bytes = spec.kernel[0] * spec.kernel[1] * tile.columns * WEIGHT_BYTES[spec.weights]
    split = split_of(spec, target.threads)
    rows = max(1, spec.out_height // split.parts("pixels"))  # of the shortest band
    with IRBuilder() as builder, build.prim_func():
        build.func_name("main")
        x = build.arg("x", build.buffer([spec.batch * spec.height * spec.width, channels], dtype))
        taps = build.arg("taps", build.buffer([tile.blocks(channels), *spec.kernel, tile.columns], spec.weights))
        bias = build.arg("bias", build.buffer([bias_size(channels, dtype)], dtype))
        residual = build.arg("residual", build.buffer([spec.out_pixels, channels], dtype)) if spec.residual else None
        y = build.arg("y", build.buffer([spec.out_pixels, channels], dtype))

        def block_rows(image: Any, first: Any, last: Any, block: Any) -> None:
            ring = Ring(spec, tile, 1, dtype, terms_together(target))
            of_block = to_multiply(taps, dtype, tile.vector, block)

            def output_row(row: Any, full: Callable[[], Any]) -> None:
                def store(pixel: Any, channel: Any, value: Any) -> None:
                    place = [(image * spec.out_height + row) * spec.out_width + pixel, channel]
                    value = value if residual is None else value + residual[place]
                    build.buffer_store(y, clipped(value, spec.clip), place)

                ring.copy(block, image, row, x)
                with full():
                    prefetch_weights(taps, block, block_bytes, row - first, rows)
                    ring.convolve(block, row, of_block, bias, store)

            ring.each_row(first, last, output_row)

        def band(image: Any, first: Any, last: Any) -> None:
            with split.loop("channels")(tile.blocks(channels)) as block:
                block_rows(image, first, last, block)

        row_bands(spec.batch, spec.out_height, split, band)
    return whole_block(builder.get())
