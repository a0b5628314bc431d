"""Pieces of loop nests that are written out rather than scheduled: where stages of a kernel share rows of a buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import tirx as build

from tvm_latency.schedules.parts import FLOAT

Cell = Callable[[Any, Any], None]


def strips(extent: int, size: int, body: Callable[[Any, int], None], loop: Callable[[int], Any] = build.serial) -> None:
    """body(start, length) for consecutive strips; the last may be shorter.

    for strip in extent / size: body(strip * size, size)
    body(what is left)
    """
    full, rest = divmod(extent, size)
    if full:
        with loop(full) as strip:
            body(strip * size, size)
    if rest:
        body(full * size, rest)


def vectors(rows: int, columns: int, lanes: int, body: Cell) -> None:
    """body(row, column) for each cell of a tile.

    for row, vector in unrolled(rows, columns / lanes): for lane in vectorized(lanes): body(row, vector * lanes + lane)
    """
    with build.unroll(rows) as row, build.unroll(columns // lanes) as vector, build.vectorized(lanes) as lane:
        body(row, vector * lanes + lane)


def accumulated(rows: int, columns: int, lanes: int, taps: tuple[int, int], product: Callable[..., Any]) -> Any:
    """A tile of sums in registers: acc[row, column] = sum of product(i, j, row, column) over taps.

    for i in taps[0]: for j in unrolled(taps[1]): for row, column: acc[row, column] += product(i, j, row, column)
    """
    acc = build.alloc_buffer([rows, columns], FLOAT)
    zero = tirx.const(0, FLOAT)
    vectors(rows, columns, lanes, lambda r, c: build.buffer_store(acc, zero, [r, c]))
    with build.serial(taps[0]) as i, build.unroll(taps[1]) as j:
        vectors(rows, columns, lanes, lambda r, c: build.buffer_store(acc, acc[r, c] + product(i, j, r, c), [r, c]))
    return acc


def whole_block(func: Any) -> Any:
    """The function as Relax's passes want to see it: one block without axes around everything."""
    block = SBlock([], [], [], "root", func.body)
    return func.with_body(SBlockRealize([], True, block))
