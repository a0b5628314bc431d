"""Pointwise convolution and linear layers on a GPU's scalar units: a matrix product over pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.gpu.grid import (
    SUM,
    Output,
    copy,
    digits,
    grid,
    kernel_function,
    lanes_of,
    part,
    registers,
    where,
    zeros,
)
from tvm_latency.schedules.gpu.parts import Block, add_parts
from tvm_latency.schedules.gpu.tiles import COLUMNS, ProductTile, product_tile
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PackedArray, Spec, bias_size, packed
from tvm_latency.schedules.loops import as_type


def product(spec: Spec, target: Target) -> Kernel | None:
    """1x1 convolution, stride 1, no padding, one group; a linear layer is one over a single pixel.

    The weights are packed in panels [blocks, in, columns]; zeros fill up the last one:

        for block of pixels, panel in blocks of the grid:
            for part, row, column in threads of a block:
                acc[rows, columns] = 0                                      # registers
                for step = part, part + parts, ... in in_channels / terms:  # terms: what one instruction loads
                    a[rows, terms], b[terms, columns] = x[row, step], panel_weights[step, column]
                    acc += a b
                y[row, column] = clip(sum of acc over the parts + bias + residual)

    Nothing is staged in shared memory: the threads of a warp read the same rows and columns at the same time, which
    level 1 answers once. The parts are added up there where there are several, which few pixels need to fill a GPU.
    """
    if not isinstance(spec, ConvSpec) or not spec.pointwise:
        return None
    tile = product_tile(spec.out_pixels, spec.in_channels, spec.out_channels, target)
    return Kernel(
        name=f"product_{spec.suffix}",
        make=lambda: kernel_function(lambda: Nest(spec, tile, target).run()),
        packs=(partial(pack_panels, tile=tile, stored=spec.weights),),
        dtype=target.stored,
    )


def pack_panels(weights: FloatArray, tile: ProductTile, stored: WeightType) -> PackedArray:
    """[out, in, 1, 1]  -->  [blocks, in, columns], zeros for what the last block lacks."""
    matrix = weights[:, :, 0, 0]
    padded = np.pad(matrix, ((0, -matrix.shape[0] % tile.block_columns), (0, 0)))
    return packed(padded.reshape(-1, tile.block_columns, matrix.shape[1]).transpose(0, 2, 1), stored)


Adder = Callable[[Any, Any, Callable[[Any], list[Any]]], None]


class Nest:
    """The kernel of one product."""

    def __init__(self, spec: ConvSpec, tile: ProductTile, target: Target) -> None:
        self.spec, self.tile, self.dtype = spec, tile, target.stored
        self.m, self.k, self.n = spec.out_pixels, spec.in_channels, spec.out_channels
        self.terms = min(COLUMNS, lanes_of(self.k, target.number_bytes))

    def inputs(self) -> None:
        """x."""
        self.x = build.arg("x", build.buffer([self.m, self.k], self.dtype))

    def run(self) -> None:
        """func(inputs, weights, bias, [residual], y)."""
        spec, tile, dtype = self.spec, self.tile, self.dtype
        panels = -(-self.n // tile.block_columns)
        self.inputs()
        self.weights = build.arg("weights", build.buffer([panels, self.k, tile.block_columns], spec.weights))
        bias = build.arg("bias", build.buffer([bias_size(self.n, dtype)], dtype))
        residual = build.arg("residual", build.buffer([self.m, self.n], dtype)) if spec.residual else None
        output = Output(spec, build.arg("y", build.buffer([self.m, self.n], dtype)), bias, residual)
        with grid(-(-self.m // tile.block_rows) * panels, tile.threads) as (block, thread):
            row_block, self.panel = digits(block, panels)
            self.part, self.row, self.column = digits(thread, tile.row_threads, tile.column_threads)
            self.block = Block(output, tile, row_block * tile.block_rows, self.panel * tile.block_columns)
            acc = self.sums(thread)
            if tile.parts == 1:
                for r, row, c, column in self._vectors():
                    self.block.store(row, column, COLUMNS, part(acc, r, c))
            else:
                self._add_parts(acc, thread)

    def _vectors(self) -> Iterator[tuple[int, Any, int, Any]]:
        """Row and first column of each vector of sums: a thread's own, and the block's."""
        tile = self.tile
        for r in range(tile.rows):
            for c in range(0, tile.columns, COLUMNS):
                # Threads beside each other have vectors beside each other.
                yield r, self.row + r * tile.row_threads, c, c * tile.column_threads + self.column * COLUMNS

    def sums(self, thread: Any) -> Any:
        """Of this thread's terms."""
        parts, steps = self.tile.parts, self.k // self.terms
        acc, add = self.adder()
        with build.serial(-(-steps // parts)) as turn:
            step = turn * parts + self.part
            with where(step < steps if steps % parts else None):
                first = step * self.terms
                add(first, self.x, lambda row: [self.block.inside(row), first])
        return acc

    def adder(self) -> tuple[Any, Adder]:
        """Sums in registers, and what adds products to them.

        add(first, source, place): those of the terms from the first on, which stand in a source at the place of a row.
        """
        tile, terms = self.tile, self.terms
        acc = zeros(tile.rows, tile.columns)
        a = registers(tile.rows, terms, dtype=self.dtype)
        b = registers(terms, tile.columns, dtype=self.spec.weights)
        columns = list(dict.fromkeys((c, column) for r, _, c, column in self._vectors() if r == 0))

        def add(first: Any, source: Any, place: Callable[[Any], list[Any]]) -> None:
            for r in range(tile.rows):
                copy(a, [r, 0], source, place(self.row + r * tile.row_threads), terms)
            for i in range(terms):
                for c, column in columns:
                    copy(b, [i, c], self.weights, [self.panel, first + i, column], COLUMNS)
            with build.unroll(terms) as i, build.unroll(tile.rows) as r, build.unroll(tile.columns) as c:
                value = acc[r, c] + as_type(a[r, i], SUM) * as_type(b[i, c], SUM)
                build.buffer_store(acc, value, [r, c])

        return acc, add

    def _add_parts(self, acc: Any, thread: Any) -> None:
        def put(sums: Any) -> None:
            for r, row, c, column in self._vectors():
                copy(sums, [self.part, row, column], acc, [r, c], COLUMNS)

        add_parts(self.block, thread, put)
