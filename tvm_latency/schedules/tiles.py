"""Tile sizes from a target's vector width and registers. Pure arithmetic, no TVM."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

# True of every x86 core since Haswell and of the large ARM cores.
FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
# What one core gets from its level-2 cache; measured on Zen 5, where 512-bit loads could take 64.
L2_BYTES_PER_CYCLE = 43
# A fused multiply-add takes 4 cycles; this many must be in flight to keep two units busy.
FMA_IN_FLIGHT = 4 * FMA_PER_CYCLE
# More vectors side by side than this make longer code, not faster.
MAX_VECTORS = 16
# A strip longer than this saves less than one load in sixteen and doubles the unrolled code.
MAX_STRIP = 16


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` accumulators of `vector` lanes each, so rows * columns / vector registers.

    Columns need not divide the channels: the last block computes on zero weights and `store`, the widest vector that
    divides the channels, is what its results are written with. `block` is how many output rows share one padded copy
    of the input, where a kind makes such copies.
    """

    rows: int
    columns: int
    vector: int
    store: int
    block: int | None = None

    @property
    def text(self) -> str:
        """What it is called in the database and in manifests: `14x32v16s8`, with a block of 7 rows `14x32v16s8b7`."""
        block = "" if self.block is None else f"b{self.block}"
        return f"{self.rows}x{self.columns}v{self.vector}s{self.store}{block}"

    def blocks(self, channels: int) -> int:
        """Blocks of columns that cover the channels."""
        return -(-channels // self.columns)


def divisors(n: int, limit: int) -> list[int]:
    """The divisors of n up to limit, ascending."""
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def store_vector(channels: int, lanes: int) -> int:
    """The widest power of two of at most `lanes` that divides the channel count."""
    while channels % lanes:
        lanes //= 2
    return lanes


def matmul_tiles(m: int, n: int, lanes: int, registers: int) -> tuple[Tile, ...]:
    """Accumulator tiles of an [m, k] x [k, n] product, the one with the fewest cycles first.

    Every step of k costs, for each tile, rows x vectors multiply-adds, one load for each weight vector, which more than
    one row of the product finds in the level-2 cache, and one broadcast for each row; the slowest of these, and the
    latency of the multiply-add, bounds it. Accumulators,
    weight vectors and one broadcast must fit the registers; a single row uses each weight vector once, straight from
    memory.
    """

    def registers_used(rows: int, vectors: int) -> int:
        return rows * vectors + (vectors if rows > 1 else 0) + 1

    def loads(rows: int, vectors: int) -> int:
        return rows + vectors

    rows = divisors(m, registers)
    return _ranked(m, n, lanes, _fitting(rows, MAX_VECTORS, registers, registers_used), loads, L2_BYTES_PER_CYCLE)


def strip_tiles(width: int, channels: int, lanes: int, registers: int) -> tuple[Tile, ...]:
    """Strips of output pixels x blocks of channels, for depthwise and dense convolution; the cheapest first.

    Each multiply-add reads its input from memory; accumulators and one weight vector for each column of the tile stay
    in registers.
    """

    def registers_used(rows: int, vectors: int) -> int:
        return rows * vectors + vectors + 1

    def loads(rows: int, vectors: int) -> int:
        return (rows + 1) * vectors

    rows = divisors(width, MAX_STRIP)
    return _ranked(width, channels, lanes, _fitting(rows, 4, registers, registers_used), loads)


def _fitting(
    rows: list[int], most_vectors: int, registers: int, used: Callable[[int, int], int]
) -> list[tuple[int, int]]:
    return [(r, v) for r in rows for v in range(1, most_vectors + 1) if used(r, v) <= registers]


def _ranked(
    m: int,
    n: int,
    lanes: int,
    shapes: list[tuple[int, int]],
    loads: Callable[[int, int], int],
    weight_bytes_per_cycle: float = float("inf"),
) -> tuple[Tile, ...]:
    """Tiles by their cycles over the whole output; ties go to fewer loads, then to the smaller tile."""
    store = store_vector(n, lanes)

    def candidates() -> Iterator[tuple[float, float, int, Tile]]:
        vector = lanes
        while vector >= store:
            for rows, vectors in shapes:
                tile = Tile(rows, vectors * vector, vector, store)
                fmas = rows * vectors
                step = max(
                    max(fmas, FMA_IN_FLIGHT) / FMA_PER_CYCLE,
                    loads(rows, vectors) / LOADS_PER_CYCLE,
                    tile.columns * 4 / weight_bytes_per_cycle if m > 1 else 0,
                )
                cycles = m / rows * tile.blocks(n) * step
                yield cycles, loads(rows, vectors) / fmas, tile.columns, tile
            vector //= 2

    return tuple(entry[-1] for entry in sorted(candidates(), key=lambda entry: entry[:3]))


def uneven_tile(m: int, n: int, lanes: int, registers: int) -> Tile:
    """The cheapest accumulator tile of a matrix product whose last rows and columns may be a smaller tile."""

    def cycles(rows: int, vectors: int) -> tuple[float, float]:
        total = loads = 0.0
        for height, times in _pieces(m, rows):
            for width, also in _pieces(-(-n // lanes), vectors):
                fmas = max(height * width, FMA_IN_FLIGHT) / FMA_PER_CYCLE
                total += times * also * max(fmas, (height + width) / LOADS_PER_CYCLE)
                loads += times * also * (height + width)
        return total, loads

    shapes = [
        (rows, vectors)
        for rows in range(1, min(m, registers) + 1)
        for vectors in range(1, min(-(-n // lanes), 4) + 1)
        if rows * vectors + vectors + 1 <= registers
    ]
    rows, vectors = min(shapes, key=lambda shape: cycles(*shape))
    return Tile(rows, vectors * lanes, lanes, store_vector(n, lanes))


def even_strip(width: int, limit: int) -> int:
    """The length of the fewest strips of at most `limit` that cover a width, as equal as can be."""
    return -(-width // -(-width // limit))


def _pieces(extent: int, size: int) -> list[tuple[int, int]]:
    """(length, how often) of the strips that cover an extent."""
    full, rest = divmod(extent, size)
    return [(size, full)] * (full > 0) + [(rest, 1)] * (rest > 0)
