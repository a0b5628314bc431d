"""How the work of a kernel is cut for a GPU: by an estimate of its clock cycles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product as choices

from targets.target import Target
from tvm_latency.schedules.kernel import ConvSpec

# A thread loads and stores so many columns at once.
COLUMNS = 4
# Of one multiprocessor, from compute capability 8.0 on: CUDA C++ Programming Guide, "Compute Capabilities".
THREADS, REGISTERS = 1536, 65536
# Fused multiply-adds of 32 threads that begin in a cycle; bytes that level 1, and level 2, answer in one.
FMA_WARPS, L1_BYTES, L2_BYTES = 4, 128, 64
# Cycles from a load to its use where level 2 has it; of a block's beginning and end; of threads that meet and add up.
LOAD_CYCLES, BLOCK_CYCLES, MEET_CYCLES = 300, 500, 100
# Of a depthwise convolution, for each multiprocessor.
STRIP_THREADS = 512


@dataclass(frozen=True)
class ProductTile:
    """rows x columns sums in a thread, and so many threads beside each other in a block.

    parts: of the terms; the threads of a part have all rows and columns of the block.
    """

    rows: int
    columns: int
    row_threads: int
    column_threads: int
    parts: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return self.row_threads * self.column_threads * self.parts

    @property
    def block_rows(self) -> int:
        """Of a block."""
        return self.rows * self.row_threads

    @property
    def block_columns(self) -> int:
        """Of a block."""
        return self.columns * self.column_threads

    def blocks(self, m: int, n: int) -> int:
        """Blocks of a whole product."""
        return -(-m // self.block_rows) * -(-n // self.block_columns)

    def cycles(self, m: int, k: int, n: int, multiprocessors: int) -> float:
        """About how long a product takes: the busiest multiprocessor's work, or one thread's waiting if that is longer.

        Each turn of a thread's loop waits for what it loads, and those of other threads that are there fill the time.
        """
        blocks, warps = self.blocks(m, n), self.threads / 32
        registers = self.rows * self.columns + COLUMNS * (self.rows + self.columns) + 24
        together = max(1, min(THREADS // self.threads, REGISTERS // (registers * self.threads)))
        of_one = -(-blocks // multiprocessors)
        turns = -(-k // (COLUMNS * self.parts))
        multiply = turns * COLUMNS * self.rows * self.columns * warps / FMA_WARPS
        # The lanes of a warp read few rows, each of them 16 bytes, and many columns beside each other.
        lanes = min(32, self.column_threads)
        loads = turns * warps * (self.rows * max(1.0, 32 / lanes / 4) + self.columns * max(1.0, lanes * 16 / L1_BYTES))
        fetch = 4 * k * (self.block_rows + self.block_columns) / L2_BYTES
        waves = -(-of_one // together)
        adding = MEET_CYCLES + 4 * self.parts if self.parts > 1 else 0
        return max(of_one * max(multiply, loads, fetch), waves * turns * LOAD_CYCLES) + waves * BLOCK_CYCLES + adding


def _tiles() -> list[ProductTile]:
    sums = ((1, 4), (2, 4), (4, 4), (8, 4), (4, 8), (8, 8))
    found = (
        ProductTile(*of_thread, row_threads, column_threads, parts)
        for of_thread, row_threads, column_threads, parts in choices(
            sums, (1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32)
        )
    )
    # Sums of all parts meet in 32 KiB of shared memory.
    fits = 8192
    return [
        tile
        for tile in found
        if 64 <= tile.threads <= 512 and (tile.parts == 1 or tile.parts * tile.block_rows * tile.block_columns <= fits)
    ]


TILES = _tiles()


@lru_cache(maxsize=4096)
def product_tile(m: int, k: int, n: int, target: Target) -> ProductTile:
    """The tile with the shortest estimate; of equal ones that with the fewest parts."""
    return min(TILES, key=lambda tile: (tile.cycles(m, k, n, target.cores), tile.parts, tile.threads))


def strip_pixels(threads: int, spec: ConvSpec, target: Target) -> int:
    """Pixels side by side that a thread of a depthwise convolution computes, out of values it loads once.

    threads: with one pixel for each. As many as leave every multiprocessor enough threads to hide their loads.
    """
    enough = target.cores * STRIP_THREADS
    return next((pixels for pixels in (4, 2) if threads // pixels >= enough and pixels <= spec.out_width), 1)
