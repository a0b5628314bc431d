"""Pointwise convolution and linear layers on a GPU's matrix units, in float16 with sums in float32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.schedules.gpu.grid import (
    Output,
    copy,
    digits,
    grid,
    kernel_function,
    part,
    registers,
    where,
    zeros,
)
from tvm_latency.schedules.gpu.parts import Block, add_parts
from tvm_latency.schedules.gpu.tiles import COLUMNS, MATRIX_TERMS, MatrixTile, matrix_tile
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed

# What one thread loads at once, and what two of its multiplications take.
HALFS = 8
MMA = "netlathe_mma"
# PTX ISA, "mma": 16 rows by 8 columns, 16 terms; the pointers lead to what a thread has of them.
_SOURCE = f"""
__forceinline__ __device__ void {MMA}(float* top, float* bottom, half* a_top, half* a_bottom, half* b) {{
  unsigned *t = (unsigned*)a_top, *u = (unsigned*)a_bottom, *w = (unsigned*)b;
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, "
      "{{%0, %1, %2, %3}};"
      : "+f"(top[0]), "+f"(top[1]), "+f"(bottom[0]), "+f"(bottom[1])
      : "r"(t[0]), "r"(u[0]), "r"(t[1]), "r"(u[1]), "r"(w[0]), "r"(w[1]));
}}
"""


def matrix_product(spec: Spec, target: Target) -> Kernel | None:
    """1x1 convolution, stride 1, no padding, one group, in float16; channels that come in are a multiple of 8.

    The weights are [out, in], as they come, filled up with zeros to whole blocks of columns:

        for block of rows, block of columns in blocks of the grid:
            for part, warp of rows, warp of columns in warps of a block:
                acc[16 row_tiles, 8 column_tiles] = 0                   # registers of 32 threads
                for step = part, part + parts, ... in in_channels / 32:
                    a, b = x[rows, 32 terms of the step], weights[columns, 32 terms of the step]
                    acc += a b                                          # 2 row_tiles column_tiles instructions
                y[rows, columns] = clip(sum of acc over the parts + bias + residual)

    A thread loads eight terms side by side of each of its rows and columns, and gives them to two instructions, four to
    each: which term is which does not matter to a sum, as long as rows and columns agree. In the same way its columns
    are ones that lie side by side, and it stores them at once.
    """
    if not isinstance(spec, ConvSpec) or not spec.pointwise or spec.in_channels % HALFS:
        return None
    if target.dtype != "float16" or spec.weights != "float16":
        return None
    tile = matrix_tile(spec.out_pixels, spec.in_channels, spec.out_channels, target)
    return Kernel(
        name=f"matrix_product_{spec.suffix}",
        make=lambda: kernel_function(lambda: _Nest(spec, tile).run()),
        packs=(partial(_pack, columns=tile.block_columns),),
        dtype=target.dtype,
    )


def _pack(weights: FloatArray, columns: int) -> PackedArray:
    """[out, in, 1, 1]  -->  [out, in], with as many more rows of zeros as the last block lacks."""
    matrix = weights[:, :, 0, 0]
    return packed(np.pad(matrix, ((0, -matrix.shape[0] % columns), (0, 0))), "float16")


class _Nest:
    """The kernel of one product."""

    def __init__(self, spec: ConvSpec, tile: MatrixTile) -> None:
        self.spec, self.tile = spec, tile
        self.m, self.k, self.n = spec.out_pixels, spec.in_channels, spec.out_channels

    def run(self) -> None:
        """func(x, weights, bias, [residual], y)."""
        spec, tile, dtype = self.spec, self.tile, "float16"
        column_blocks = -(-self.n // tile.block_columns)
        self.x = build.arg("x", build.buffer([self.m, self.k], dtype))
        self.weights = build.arg("weights", build.buffer([column_blocks * tile.block_columns, self.k], dtype))
        bias = build.arg("bias", build.buffer([bias_size(self.n, "float16")], dtype))
        residual = build.arg("residual", build.buffer([self.m, self.n], dtype)) if spec.residual else None
        output = Output(spec, build.arg("y", build.buffer([self.m, self.n], dtype)), bias, residual)
        with grid(-(-self.m // tile.block_rows) * column_blocks, tile.threads) as (block, thread):
            row_block, column_block = digits(block, column_blocks)
            warp, lane = digits(thread, 32)
            self.group, self.quarter = digits(lane, 4)
            self.part, row_warp, column_warp = digits(warp, tile.row_warps, tile.column_warps)
            self.block = Block(output, tile, row_block * tile.block_rows, column_block * tile.block_columns)
            self.row, self.column = row_warp * 16 * tile.row_tiles, column_warp * 8 * tile.column_tiles
            acc = self._sums()
            if tile.parts == 1:
                for index, row, column in self._owned():
                    self.block.store(row, column, 2 * tile.column_tiles, part(acc, *index, 0))
            else:
                self._add_parts(acc, thread)

    def _owned(self) -> Iterator[tuple[tuple[int, int], Any, Any]]:
        """Of each row of this thread's sums: where they are, the row of the block and the first column of it."""
        tile = self.tile
        column = self.column + self.quarter * 2 * tile.column_tiles
        for i in range(tile.row_tiles):
            for half in range(2):
                yield (i, half), self.row + i * 16 + half * 8 + self.group, column

    def _sums(self) -> Any:
        """acc[row tile, upper or lower half, columns]: of this thread's rows, and all terms of its part."""
        tile, steps = self.tile, -(-self.k // MATRIX_TERMS)
        acc = zeros(tile.row_tiles, 2, 2 * tile.column_tiles)
        a = registers(tile.row_tiles, 2, HALFS, dtype="float16")
        b = registers(tile.column_tiles, HALFS, dtype="float16")
        with build.serial(-(-steps // tile.parts)) as turn:
            step = turn * tile.parts + self.part
            term = step * MATRIX_TERMS + self.quarter * HALFS
            for i in range(tile.row_tiles):
                for half in range(2):
                    row = self.block.inside(self.row + i * 16 + half * 8 + self.group)
                    self._load(a, (i, half), self.x, row, term)
            for j in range(tile.column_tiles):
                # Column g of a tile is one of those that the thread of its sums stores side by side.
                pair, odd = tirx.floordiv(self.group, 2), tirx.floormod(self.group, 2)
                column = self.block.column + self.column + pair * 2 * tile.column_tiles + j * 2 + odd
                self._load(b, (j,), self.weights, column, term)
            for half_step in range(2):
                at = half_step * HALFS // 2
                for i in range(tile.row_tiles):
                    for j in range(tile.column_tiles):
                        places = (acc[i, 0, 2 * j], acc[i, 1, 2 * j], a[i, 0, at], a[i, 1, at], b[j, at])
                        build.evaluate(cuda_func_call(MMA, *map(tirx.address_of, places), source_code=_SOURCE))
        return acc

    def _load(self, into: Any, index: tuple[int, ...], source: Any, row: Any, term: Any) -> None:
        """Eight terms of a row; zeros where there are no such."""
        whole = self.k % (MATRIX_TERMS * self.tile.parts) == 0
        if not whole:
            with build.unroll(HALFS) as c:
                build.buffer_store(into, tirx.const(0.0, "float16"), [*index, c])
        with where(None if whole else term < self.k):
            copy(into, [*index, 0], source, [row, term], HALFS)

    def _add_parts(self, acc: Any, thread: Any) -> None:
        tile = self.tile

        def put(sums: Any) -> None:
            for index, row, column in self._owned():
                for c in range(0, 2 * tile.column_tiles, COLUMNS):
                    copy(sums, [self.part, row, column + c], acc, [*index, c], COLUMNS)

        add_parts(self.block, thread, put)
