"""Pointwise convolution and linear layers on a GPU's matrix units, in float16 or tf32 with sums in float32."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx
from tvm.backend.cuda.op import cuda_func_call
from tvm.script.ir_builder import tirx as build

from targets.target import Stored, Target
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
from tvm_latency.schedules.gpu.tiles import (
    COLUMNS,
    VECTOR_BYTES,
    MatrixTile,
    matrix_terms,
    matrix_tile,
    on_matrix_units,
)
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed

MMA, ROUND = "netlathe_mma", "netlathe_tf32"
# PTX ISA, "mma": 16 rows by 8 columns, 16 terms of float16 or 8 of tf32; pointers lead to what a thread has of them.
_SOURCE = f"""
__forceinline__ __device__ void {MMA}(float* top, float* bottom, NUMBER* a_top, NUMBER* a_bottom, NUMBER* b) {{
  unsigned *t = (unsigned*)a_top, *u = (unsigned*)a_bottom, *w = (unsigned*)b;
  asm volatile(
      "mma.sync.aligned.SHAPE {{%0, %1, %2, %3}}, {{%4, %5, %6, %7}}, {{%8, %9}}, {{%0, %1, %2, %3}};"
      : "+f"(top[0]), "+f"(top[1]), "+f"(bottom[0]), "+f"(bottom[1])
      : "r"(t[0]), "r"(u[0]), "r"(t[1]), "r"(u[1]), "r"(w[0]), "r"(w[1]));
}}
"""
_SOURCES: dict[Stored, str] = {
    "float16": _SOURCE.replace("NUMBER", "half").replace("SHAPE", "m16n8k16.row.col.f32.f16.f16.f32"),
    "float32": _SOURCE.replace("NUMBER", "float").replace("SHAPE", "m16n8k8.row.col.f32.tf32.tf32.f32"),
}
# To the nearest number that has 11 significant bits: without, the units cut off the others.
_ROUND_SOURCE = f"""
__forceinline__ __device__ void {ROUND}(float* value) {{
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(*(unsigned*)value) : "f"(*value));
}}
"""
_CUT_BITS = 13


def matrix_product(spec: Spec, target: Target) -> Kernel | None:
    """1x1 convolution, stride 1, no padding, one group, in float16 or tf32; channels that come in fill vectors.

    The weights are [out, in], as they come, filled up with zeros to whole blocks of columns:

        for block of rows, block of columns in blocks of the grid:
            for part, warp of rows, warp of columns in warps of a block:
                acc[16 row_tiles, 8 column_tiles] = 0                   # registers of 32 threads
                for step = part, part + parts, ... in in_channels / terms:
                    a, b = x[rows, terms of the step], weights[columns, terms of the step]
                    acc += a b                                          # 2 row_tiles column_tiles instructions
                y[rows, columns] = clip(sum of acc over the parts + bias + residual)

    A thread loads a vector of terms of each of its rows and columns, and gives half of it to one instruction and half
    to the next: which term is which does not matter to a sum, as long as rows and columns agree. In the same way its
    columns are ones that lie side by side, and it stores them at once. For tf32 weights are rounded when they are
    packed, and x when it is loaded.
    """
    if not isinstance(spec, ConvSpec) or not spec.pointwise or not on_matrix_units(spec.in_channels, target):
        return None
    if spec.weights != target.stored:
        return None
    tile = matrix_tile(spec.out_pixels, spec.in_channels, spec.out_channels, target)
    return Kernel(
        name=f"matrix_product_{spec.suffix}",
        make=lambda: kernel_function(lambda: _Nest(spec, tile, target).run()),
        packs=(partial(_pack, columns=tile.block_columns, stored=target.stored),),
        dtype=target.stored,
    )


def _pack(weights: FloatArray, columns: int, stored: Stored) -> PackedArray:
    """[out, in, 1, 1]  -->  [out, in], with as many more rows of zeros as the last block lacks."""
    matrix = weights[:, :, 0, 0]
    padded = np.pad(matrix, ((0, -matrix.shape[0] % columns), (0, 0)))
    return packed(padded if stored == "float16" else rounded(padded), stored)


def rounded(values: FloatArray) -> FloatArray:
    """To tf32: the nearest, and of two the larger; what is no number stays so."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    nearest: FloatArray = ((bits + np.uint32(1 << _CUT_BITS - 1)) & ~np.uint32((1 << _CUT_BITS) - 1)).view(np.float32)
    return np.where(np.isfinite(values), nearest, values)


class _Nest:
    """The kernel of one product."""

    def __init__(self, spec: ConvSpec, tile: MatrixTile, target: Target) -> None:
        self.spec, self.tile, self.dtype = spec, tile, target.stored
        self.lanes, self.terms = VECTOR_BYTES // target.number_bytes, matrix_terms(target)
        self.m, self.k, self.n = spec.out_pixels, spec.in_channels, spec.out_channels

    def run(self) -> None:
        """func(x, weights, bias, [residual], y)."""
        spec, tile, dtype = self.spec, self.tile, self.dtype
        column_blocks = -(-self.n // tile.block_columns)
        self.x = build.arg("x", build.buffer([self.m, self.k], dtype))
        self.weights = build.arg("weights", build.buffer([column_blocks * tile.block_columns, self.k], dtype))
        bias = build.arg("bias", build.buffer([bias_size(self.n, dtype)], dtype))
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
        tile, lanes, steps = self.tile, self.lanes, -(-self.k // self.terms)
        acc = zeros(tile.row_tiles, 2, 2 * tile.column_tiles)
        a = registers(tile.row_tiles, 2, lanes, dtype=self.dtype)
        b = registers(tile.column_tiles, lanes, dtype=self.dtype)
        with build.serial(-(-steps // tile.parts)) as turn:
            step = turn * tile.parts + self.part
            term = step * self.terms + self.quarter * lanes
            for i in range(tile.row_tiles):
                for half in range(2):
                    row = self.block.inside(self.row + i * 16 + half * 8 + self.group)
                    self._load(a, (i, half), self.x, row, term)
                    self._round(a, (i, half))
            for j in range(tile.column_tiles):
                # Column g of a tile is one of those that the thread of its sums stores side by side.
                pair, odd = tirx.floordiv(self.group, 2), tirx.floormod(self.group, 2)
                column = self.block.column + self.column + pair * 2 * tile.column_tiles + j * 2 + odd
                self._load(b, (j,), self.weights, column, term)
            for half_step in range(2):
                at = half_step * lanes // 2
                for i in range(tile.row_tiles):
                    for j in range(tile.column_tiles):
                        places = (acc[i, 0, 2 * j], acc[i, 1, 2 * j], a[i, 0, at], a[i, 1, at], b[j, at])
                        self._call(MMA, _SOURCES[self.dtype], *places)
        return acc

    def _round(self, values: Any, index: tuple[int, ...]) -> None:
        if self.dtype == "float32":
            for c in range(self.lanes):
                self._call(ROUND, _ROUND_SOURCE, part(values, *index, 0)(c))

    def _call(self, function: str, source: str, *places: Any) -> None:
        build.evaluate(cuda_func_call(function, *map(tirx.address_of, places), source_code=source))

    def _load(self, into: Any, index: tuple[int, ...], source: Any, row: Any, term: Any) -> None:
        """A vector of terms of a row; zeros where there are no such."""
        whole = self.k % (self.terms * self.tile.parts) == 0
        if not whole:
            with build.unroll(self.lanes) as c:
                build.buffer_store(into, tirx.const(0.0, self.dtype), [*index, c])
        with where(None if whole else term < self.k):
            copy(into, [*index, 0], source, [row, term], self.lanes)

    def _add_parts(self, acc: Any, thread: Any) -> None:
        tile = self.tile

        def put(sums: Any) -> None:
            for index, row, column in self._owned():
                for c in range(0, 2 * tile.column_tiles, COLUMNS):
                    copy(sums, [self.part, row, column + c], acc, [*index, c], COLUMNS)

        add_parts(self.block, thread, put)
