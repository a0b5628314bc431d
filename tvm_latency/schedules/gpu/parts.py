"""Sums that several threads of a block have parts of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tvm.script.ir_builder import tirx as build

from tvm_latency.schedules.gpu.grid import digits, loaded, part, shared, wait_for_block, where
from tvm_latency.schedules.gpu.tiles import COLUMNS


def add_parts(
    shape: tuple[int, int, int],
    threads: tuple[Any, int],
    put: Callable[[Any], None],
    store: Callable[[Any, Any, Callable[[Any], Any]], None],
) -> None:
    """All threads of a block put what they have, and share what there is to add up and to store.

    shape: parts, rows, columns. threads: this one, and how many there are.
    put(sums): writes sums[part, row, column]; store(row, column, total): four columns.
    """
    parts, rows, columns = shape
    thread, count = threads
    sums = shared(*shape)
    put(sums)
    wait_for_block()
    vectors = rows * columns // COLUMNS
    for begin in range(0, vectors, count):
        number = begin + thread
        with where(number < vectors if begin + count > vectors else None):
            row, vector = digits(number, columns // COLUMNS)
            column = vector * COLUMNS
            total = loaded(sums, [0, row, column], COLUMNS)
            with build.serial(parts - 1) as other, build.unroll(COLUMNS) as c:
                build.buffer_store(total, total[c] + sums[other + 1, row, column + c], [c])
            store(row, column, part(total, 0))
