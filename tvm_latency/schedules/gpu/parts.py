"""What blocks of a product have in common: their edges, and sums that several threads have parts of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from tvm_latency.schedules.gpu.grid import Output, digits, loaded, part, shared, wait_for_block, where
from tvm_latency.schedules.gpu.tiles import COLUMNS, MatrixTile, ProductTile


@dataclass(frozen=True)
class Block:
    """A block of the output from a row and a column on; it may stand out over the last ones."""

    output: Output
    tile: ProductTile | MatrixTile
    row: Any
    column: Any

    def inside(self, row: Any) -> Any:
        """A row of the block as one of x: past the last one that again, and what is computed of it is not stored."""
        row, rows = self.row + row, self.output.spec.out_pixels
        return row if rows % self.tile.block_rows == 0 else tirx.min(row, rows - 1)

    def store(self, row: Any, column: Any, lanes: int, value: Callable[[Any], Any]) -> None:
        """Columns of the block side by side."""
        row, channel, spec = self.row + row, self.column + column, self.output.spec
        with where(
            row < spec.out_pixels if spec.out_pixels % self.tile.block_rows else None,
            channel < spec.out_channels if spec.out_channels % self.tile.block_columns else None,
        ):
            self.output.store(row, channel, lanes, value)


def add_parts(
    block: Block,
    thread: Any,
    put: Callable[[Any], None],
) -> None:
    """All threads of a block put what they have, and share what there is to add up and to store.

    put(sums): writes sums[part, row, column].
    """
    tile = block.tile
    parts, rows, columns, count = tile.parts, tile.block_rows, tile.block_columns, tile.threads
    sums = shared(parts, rows, columns)
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
            block.store(row, column, COLUMNS, part(total, 0))
