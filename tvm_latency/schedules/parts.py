"""Pieces that several kernel kinds share: the epilogue, zero padding, the register tile of an accumulation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from tvm import IRModule, te, tirx
from tvm.s_tir import Schedule

from targets.target import Stored
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, PackedArray, packed
from tvm_latency.schedules.threads import Split
from tvm_latency.schedules.tiles import Tile


def clipped(value: Any, clip: tuple[float, float] | None) -> Any:
    """min(max(value, low), high); an infinite bound costs nothing."""
    if clip is None:
        return value
    low, high = clip
    if low != float("-inf"):
        value = tirx.max(value, tirx.const(low, str(value.ty.dtype)))
    return value if high == float("inf") else tirx.min(value, tirx.const(high, str(value.ty.dtype)))


def padded(x: te.Tensor, before: Sequence[int], after: Sequence[int], dtype: Stored) -> te.Tensor:
    """A copy of x with zeros before and after each axis, as dtype; x itself where there are none."""
    if not any(before) and not any(after):
        return x
    shape = [low + size + high for low, size, high in zip(before, x.shape, after)]

    def value(*index: Any) -> Any:
        source = [i - low for i, low in zip(index, before)]
        inside = [s >= 0 for s, low in zip(source, before) if low]
        inside += [s < size for s, size, high in zip(source, x.shape, after) if high]
        return tirx.if_then_else(tirx.all(*inside), x(*source).astype(dtype), tirx.const(0, dtype))

    return te.compute(shape, value, name="padded")


def epilogue(acc: Any, bias: Any, residual: Any, clip: tuple[float, float] | None) -> Any:
    """clip(acc + bias + residual); the residual may be None."""
    return clipped(acc + bias if residual is None else acc + bias + residual, clip)


def zero_padded(weights: FloatArray, tile: Tile) -> FloatArray:
    """Weights with as many zero channels at the end of axis 0 as the last block of columns lacks."""
    channels = weights.shape[0]
    missing = tile.blocks(channels) * tile.columns - channels
    return np.pad(weights, [(0, missing)] + [(0, 0)] * (weights.ndim - 1))


def pack_panels(weights: FloatArray, tile: Tile, stored: WeightType) -> PackedArray:
    """[channels, terms, 1, 1]  -->  [blocks, terms, columns], zeros for what the last block lacks."""
    panels = zero_padded(weights[:, :, 0, 0], tile).reshape(-1, tile.columns, weights.shape[1])
    return packed(panels.transpose(0, 2, 1), stored)


def schedule(tensors: list[te.Tensor]) -> Schedule:
    """A schedule of the function with these parameters, inputs first and output last."""
    return Schedule(IRModule({"main": te.create_prim_func(tensors)}))


def schedule_image(
    spec: ConvSpec, x: te.Tensor, weights: te.Tensor, bias: te.Tensor, residual: te.Tensor, acc: te.Tensor
) -> Schedule:
    """A schedule of y = clip(acc + bias + residual), an image like `residual`; acc may have more channels."""
    y = te.compute(
        residual.shape,
        lambda n, y, q, c: epilogue(
            acc[n, y, q, c], bias[c], residual[n, y, q, c] if spec.residual else None, spec.clip
        ),
        name="y",
    )
    return schedule([x, weights, bias, *([residual] if spec.residual else []), y])


def vectorize_columns(s: Schedule, loop: Any, vector: int) -> None:
    """Split a loop over channels into unrolled vectors.

    for c in columns:  -->  for v in unrolled(columns / vector): for lane in vectorized(vector)
    """
    outer, lanes = s.split(loop, [None, vector])
    s.vectorize(lanes)
    s.unroll(outer)


def spread_over_threads(s: Schedule, split: Split, image: Any, rows: Any, channels: Any) -> None:
    """Put the loops over images, rows and channels outermost and divide their iterations among threads.

    for image: for rows: for channels:  -->  for part in parallel(image * rows * channels)
    """
    order = (image, rows, channels) if split.axis == "pixels" else (image, channels, rows)
    s.reorder(*order)
    if split.threads > 1:
        s.parallel(s.fuse(*order))


def pixels_last(s: Schedule, spec: ConvSpec, readers: Any) -> None:
    """Turn the [batch, height, width, channels] parameters of a convolution into matrices [pixels, channels].

    Activations travel between kernels as matrices, so a pointwise kernel may tile over all pixels of an image and no
    reshape stands between kernels. Call it before any loop is split: `readers` is the block that reads the input first,
    None where the input stays an image; the block `y` writes the output and reads the residual last.
    """

    def flatten(block: Any, buffer: tuple[str, int], height: int, width: int) -> None:
        s.transform_layout(block, buffer, lambda n, y, x, c: ((n * height + y) * width + x, c))

    if readers is not None:
        flatten(readers, ("read", 0), spec.height, spec.width)
    if spec.residual:
        flatten(s.get_sblock("y"), ("read", 2), spec.out_height, spec.out_width)
    flatten(s.get_sblock("y"), ("write", 0), spec.out_height, spec.out_width)
