"""Pointwise convolution and linear layers: a matrix product over pixels with packed weights."""

from __future__ import annotations

from tvm import te

from targets.target import Target
from tvm_latency.opspec import WEIGHT_BYTES
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec
from tvm_latency.schedules.parts import (
    FLOAT,
    epilogue,
    packed,
    schedule,
    spread_over_threads,
    vectorize_columns,
    zero_padded,
)
from tvm_latency.schedules.prefetch import prefetch_weights
from tvm_latency.schedules.tiles import Tile, matmul_tiles

# TVM keeps larger buffers on the heap. In the function that it makes of a parallel loop, LLVM then takes a prefetch for
# a read of the sums and leaves them in memory, at a third of the speed; smaller tiles are faster even without.
STACK_BYTES = 1024


def pointwise(spec: Spec, target: Target, tile: Tile | None = None) -> Kernel | None:
    """1x1 convolution, stride 1, no padding, one group; a linear layer is one over a single pixel.

    The weights are packed in panels [blocks, in, columns], so a panel streams through the cache once; zeros fill up
    the last one:

        for panel, pixel_block:                             # on all threads
            acc[rows, columns] = 0                      # registers
            for i in in_channels:
                for r, v in unrolled(rows, columns / vector):
                    acc[r, v] += x[pixel_block + r, i] * panel_weights[i, v]
            y[pixel_block + r, panel] = clip(acc + bias + residual)
    """
    if not isinstance(spec, ConvSpec) or not spec.pointwise:
        return None
    m, k, n = spec.out_pixels, spec.in_channels, spec.out_channels
    tiles = matmul_tiles(m, n, target.lanes, target.vector_registers)
    if target.threads > 1:
        tiles = tuple(t for t in tiles if t.rows * t.columns * 4 < STACK_BYTES)
    tile = tile or tiles[0]

    def pack(weights: FloatArray) -> PackedArray:
        panels = zero_padded(weights.reshape(n, k), tile).reshape(-1, tile.columns, k)
        return packed(panels.transpose(0, 2, 1), spec.weights)

    return Kernel(
        name=f"pointwise_{spec.suffix}",
        make=lambda: _scheduled(spec, m, k, n, tile, target),
        tiles=tiles,
        packs=(pack,),
    )


def _scheduled(spec: ConvSpec, m: int, k: int, n: int, tile: Tile, target: Target) -> object:
    x = te.placeholder((m, k), FLOAT, "x")
    weights = te.placeholder((tile.blocks(n), k, tile.columns), spec.weights, "weights")
    bias = te.placeholder((n,), FLOAT, "bias")
    residual = te.placeholder((m, n), FLOAT, "residual")
    i = te.reduce_axis((0, k), "i")
    acc = te.compute(
        (m, tile.blocks(n) * tile.columns),
        lambda p, c: te.sum(x[p, i] * weights[c // tile.columns, i, c % tile.columns].astype(FLOAT), axis=i),
        name="acc",
    )
    y = te.compute(
        (m, n),
        lambda p, c: epilogue(acc[p, c], bias[c], residual[p, c] if spec.residual else None, spec.clip),
        name="y",
    )
    s = schedule([x, weights, bias, *([residual] if spec.residual else []), y])
    acc_block, y_block = s.get_sblock("acc"), s.get_sblock("y")
    pixel, channel = s.get_loops(y_block)
    pixel_block, row = s.split(pixel, [None, tile.rows])
    panel, column = s.split(channel, [None, tile.columns])
    s.reorder(panel, pixel_block, row, column)
    vectorize_columns(s, column, tile.store)
    s.unroll(row)
    outer = spread_over_threads(s, (panel, pixel_block), spec.macs, target.threads)
    s.compute_at(acc_block, outer, preserve_unit_loops=True)
    row, column, reduction = s.get_loops(acc_block)[-3:]
    s.reorder(reduction, row, column)
    vectorize_columns(s, column, tile.vector)
    s.unroll(row)
    s.decompose_reduction(acc_block, reduction)
    func, panel_bytes = s.mod["main"], k * tile.columns * WEIGHT_BYTES[spec.weights]
    if tile.blocks(n) * panel_bytes <= target.l1d_bytes // 2:
        return func
    return prefetch_weights(func, "acc_update", func.params[1], panel_bytes, uses=m // tile.rows)
