"""Matrix products of few output channels, two terms of each sum at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed
from tvm_latency.schedules.loops import strips, to_multiply, whole_block
from tvm_latency.schedules.parts import epilogue
from tvm_latency.schedules.threads import Split, wakes

# Vectors of sums: with more, LLVM spills some of them.
MAX_SUMS = 15
MAX_VECTORS = 5

Load = Callable[[Any, Any], Any]


def suits_pairs(channels: int, terms: int, lanes: int) -> bool:
    """Whether half a vector of channels would be left over, and pairs are worth their longer end."""
    return channels % lanes == lanes // 2 and 2 * channels // lanes <= MAX_VECTORS and terms % 2 == 0


def pair_rows(channels: int, lanes: int) -> int:
    """Rows of the tile of sums."""
    return MAX_SUMS // (2 * channels // lanes)


def pack_pairs(weights: FloatArray, stored: WeightType) -> PackedArray:
    """[channels, terms, 1, 1]  -->  [terms / 2, channels * 2]: both terms of a pair side by side for each channel."""
    channels, terms = weights.shape[:2]
    return packed(weights.reshape(channels, terms // 2, 2).transpose(1, 0, 2).reshape(terms // 2, -1), stored)


def pair_product(
    rows: int, channels: int, terms: int, lanes: int, pair: Load, weights: Load, store: Callable[..., None]
) -> None:
    """`rows` x `channels` sums of products.

    for i in terms / 2:
        for r, v in unrolled(rows, 2 channels / lanes):
            acc[r, v] += (x[r, 2 i], x[r, 2 i + 1], x[r, 2 i], ...) * weights[i, v]      # one load fills the vector
    for r, v: store(r, channels of v, even lanes of acc[r, v] + odd lanes of acc[r, v])

    With 24 channels and 16 lanes that is three full vectors where one and a half would be padded to two: 4/3 the speed.

    pair(r, i) answers two values, weights(i, lanes) a vector; store takes half a vector of channels.
    """
    half, count = lanes // 2, 2 * channels // lanes
    # One buffer for each vector of columns, as in `loops.Sums`.
    dtype = str(weights(0, 0).ty.dtype)
    acc = [build.alloc_buffer([rows, lanes], dtype) for _ in range(count)]
    lane = tirx.Ramp(0, 1, lanes)

    zero = tirx.Broadcast(tirx.const(0, dtype), lanes)
    with build.unroll(rows) as r:
        for part in acc:
            build.buffer_store(part, zero, [r, lane])
    with build.serial(terms // 2) as i, build.unroll(rows) as r:
        both = tirx.Shuffle([pair(r, i)] * half, list(range(lanes)))
        for v, part in enumerate(acc):
            build.buffer_store(part, part[r, lane] + both * weights(i, tirx.Ramp(v * lanes, 1, lanes)), [r, lane])
    with build.unroll(rows) as r:
        for v, part in enumerate(acc):
            even, odd = (part[r, tirx.Ramp(term, 2, half)] for term in (0, 1))
            store(r, tirx.Ramp(v * half, 1, half), even + odd)


def paired_pointwise(spec: Spec, target: Target) -> Kernel | None:
    """Pointwise convolution whose channels leave half a vector over: 24 or 40 of them where 16 fill one.

    for strip:                                                                # on all threads
        y[strip] = clip(pair_product(x[strip], weights) + bias + residual)
    """
    if not isinstance(spec, ConvSpec) or not spec.pointwise:
        return None
    if not suits_pairs(spec.out_channels, spec.in_channels, target.lanes):
        return None

    return Kernel(
        name=f"paired_pointwise_{spec.suffix}",
        make=lambda: _function(spec, target),
        packs=(partial(pack_pairs, stored=spec.weights),),
        dtype=target.stored,
    )


def _function(spec: ConvSpec, target: Target) -> Any:
    m, k, n, lanes, dtype = spec.out_pixels, spec.in_channels, spec.out_channels, target.lanes, target.stored
    with IRBuilder() as builder, build.prim_func():
        build.func_name("main")
        x = build.arg("x", build.buffer([m, k], dtype))
        weights = build.arg("weights", build.buffer([k // 2, 2 * n], spec.weights))
        bias = build.arg("bias", build.buffer([bias_size(n, dtype)], dtype))
        residual = build.arg("residual", build.buffer([m, n], dtype)) if spec.residual else None
        y = build.arg("y", build.buffer([m, n], dtype))

        def strip(panel: Any, at: Any, rows: int) -> None:
            def store(r: Any, c: Any, value: Any) -> None:
                added = None if residual is None else residual[at + r, c]
                build.buffer_store(y, epilogue(value, bias[c], added, spec.clip), [at + r, c])

            pair_product(
                rows, n, k, lanes, lambda r, i: x[at + r, tirx.Ramp(2 * i, 1, 2)], lambda i, c: panel[i, c], store
            )

        def band(start: Any, pixels: int) -> None:
            panel = to_multiply(weights, dtype, lanes)
            strips(pixels, pair_rows(n, lanes), lambda at, length: strip(panel, start + at, length))

        # Few channels: threads share the pixels of any image.
        Split(wakes(spec.macs, target.threads), "pixels").bands(m, band)
    return whole_block(builder.get())
