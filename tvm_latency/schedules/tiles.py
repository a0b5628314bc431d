"""Tile sizes from a target's vector width and registers. Pure arithmetic, no TVM."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from targets.target import Target

# True of every x86 core since Haswell and of the large ARM cores.
FMA_PER_CYCLE = 2
# Beside them a core loads so many vectors and broadcasts a cycle; fewer where a broadcast is an instruction of its own,
# as with 256-bit vectors on x86: fitted to tiles of products on a Zen 3 core.
LOADS_PER_CYCLE, LOADS_PER_CYCLE_AVX2 = 2.0, 1.5
# Bytes that come from the level-2 cache while a core could have done two multiply-adds: it does not do them meanwhile.
# Fitted to tiles of products on a 512-bit Xeon; what a Zen 5 core gets at most is 43.
L2_BYTES_PER_CYCLE = 64
# What it takes to fill and empty a tile of sums: for each vector of it, and for the loops around it.
CYCLES_PER_SUM, CYCLES_PER_TILE = 2, 16
# TVM keeps buffers of so many bytes and more on the heap, where LLVM loses sight of them.
HEAP_BYTES = 1024
# A fused multiply-add takes 4 cycles; this many must be in flight to keep two units busy.
FMA_IN_FLIGHT = 4 * FMA_PER_CYCLE
# More vectors side by side than this make longer code, not faster.
MAX_VECTORS = 16
# What it takes to begin and end a strip of a depthwise convolution, for each tap in half cycles.
STRIP_OVERHEAD = 4


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` accumulators of `vector` lanes each, so rows * columns / vector registers.

    Columns need not divide the channels: what is past the last one is computed with zero weights and not stored.
    """

    rows: int
    columns: int
    vector: int

    def blocks(self, channels: int) -> int:
        """Blocks of columns that cover the channels."""
        return -(-channels // self.columns)


def divisors(n: int, limit: int) -> list[int]:
    """The divisors of n up to limit, ascending."""
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def most_rows(vector_bytes: int, registers: int) -> int:
    """Of a tile of sums, each column of vectors a buffer of its own: as many as fit the registers and the stack."""
    return min(registers, (HEAP_BYTES - 1) // vector_bytes)


def store_vector(channels: int, lanes: int) -> int:
    """The widest power of two of at most `lanes` that divides the channel count."""
    while channels % lanes:
        lanes //= 2
    return lanes


def terms_together(target: Target) -> int:
    """How many terms of a row one load brings: multiply-adds take a lane of a register for a factor on ARM."""
    return target.lanes if target.kind == "arm" else 1


@dataclass(frozen=True)
class Product:
    """A matrix product [m, k] x [k, n], as one core does it whose level-1 cache has so many bytes.

    together: how many terms of a row one load brings, as lanes of a register that multiply-adds take one by one.
    number_bytes: of a factor and of a sum.
    """

    m: int
    k: int
    n: int
    l1d_bytes: int
    loads_per_cycle: float = LOADS_PER_CYCLE
    together: int = 1
    number_bytes: int = 4

    @classmethod
    def on(cls, target: Target, m: int, k: int, n: int, *, by_lane: bool = True) -> Product:
        """As a core of the target does it; by_lane: whether the loop nest takes lanes for factors where it can."""
        avx2 = target.kind == "x86" and target.vector_bits == 256
        loads = LOADS_PER_CYCLE_AVX2 if avx2 else LOADS_PER_CYCLE
        together = terms_together(target) if by_lane else 1
        return cls(m, k, n, target.l1d_bytes, loads, together, target.number_bytes)

    def strips_outermost(self, tile: Tile) -> bool:
        """Whether all weights stay in the level-1 cache, so that each strip of rows may pass all panels in turn."""
        return tile.blocks(self.n) * self.k * tile.columns * self.number_bytes <= self.l1d_bytes // 2

    def cycles(self, tile: Tile) -> float:
        """An estimate for one core.

        Every step of k costs, for each tile, rows x vectors multiply-adds, one load for each weight vector and one
        broadcast for each row, or a share of a load; the slowest of these, and the latency of the multiply-add, bounds
        it, or their sum where a core begins few instructions a cycle. What leaves the level-1 cache before it is used
        again comes from the second, and a tile has to be filled and emptied.
        """
        total = 0.0
        for rows, strips in _pieces(self.m, tile.rows):
            for vectors, panels in _pieces(-(-self.n // tile.vector), tile.columns // tile.vector):
                multiplied = max(rows * vectors, FMA_IN_FLIGHT) / FMA_PER_CYCLE
                loaded = (rows / self.together + vectors) / self.loads_per_cycle
                # Small ARM cores begin two instructions a cycle, whatever they do.
                step = multiplied + loaded if self.together > 1 else max(multiplied, loaded)
                total += strips * panels * (self.k * step + CYCLES_PER_SUM * rows * vectors + CYCLES_PER_TILE)
        return total + self._l2_bytes(tile) / L2_BYTES_PER_CYCLE

    def _l2_bytes(self, tile: Tile) -> int:
        x, panel = (count * self.k * self.number_bytes for count in (self.m, tile.columns))
        if self.strips_outermost(tile) or self.m == 1:
            return x
        uses = -(-self.m // tile.rows) if panel > self.l1d_bytes // 2 else 1
        return tile.blocks(self.n) * ((x if x > self.l1d_bytes // 2 else 0) + uses * panel)


def matmul_tile(
    product: Product,
    lanes: int,
    registers: int,
    *,
    even: bool = False,
    full: bool = False,
    most_sums: int | None = None,
) -> Tile:
    """The accumulator tile of a matrix product with the fewest cycles.

    Accumulators, weight vectors and one broadcast, or lanes of every row, must fit the registers; a single row uses
    each weight vector once, straight from memory. The last rows may be fewer than the others, unless they have to be
    `even`. A vector may be narrower than the machine's where channels would be left over, unless it has to be `full`.

    most_sums: vectors of accumulators, at most; None for as many as fit.
    """
    narrowest = lanes if full else store_vector(product.n, lanes)

    def candidates() -> Iterator[Tile]:
        vector = lanes
        while vector >= narrowest:
            most = most_rows(vector * product.number_bytes, registers)
            for rows in divisors(product.m, most) if even else _even_strips(product.m, most):
                for vectors in range(1, min(MAX_VECTORS, -(-product.n // vector)) + 1):
                    factors = rows if product.together > 1 else 1
                    needed = rows * vectors + (vectors if rows > 1 else 0) + factors
                    if needed <= registers and rows * vectors <= (most_sums or registers):
                        yield Tile(rows, vectors * vector, vector)
            vector //= 2

    return min(candidates(), key=lambda tile: (product.cycles(tile), tile.columns))


def _even_strips(extent: int, limit: int) -> list[int]:
    """The lengths of strips that cover an extent as equally as can be."""
    return list(dict.fromkeys(even_strip(extent, size) for size in range(1, limit + 1)))


def ring_tile(width: int, channels: int, row_bytes: int, target: Target) -> Tile:
    """The strip of output pixels x block of channels for depthwise convolution out of a ring.

    Each multiply-add reads its input from memory, so long strips save little; a block is as wide as lets its ring stay
    in half the level-1 cache. row_bytes: of the ring, for one channel.
    """
    lanes = target.lanes
    blocks = [vectors for vectors in (4, 2, 1) if vectors == 1 or (vectors - 1) * lanes < channels]

    def cycles(rows: int) -> int:
        """For a tap of a row, in half cycles."""
        return sum(n * (max(FMA_IN_FLIGHT, r + 1) + STRIP_OVERHEAD) for r, n in _pieces(width, rows))

    def cost(tile: Tile) -> tuple[bool, float, int]:
        fits = tile.columns * row_bytes <= target.l1d_bytes // 2
        return not fits, cycles(tile.rows), -tile.columns if fits else tile.columns

    strips = _even_strips(width, longest_strip(target))
    return min((Tile(r, v * lanes, lanes) for r in strips for v in blocks), key=cost)


def longest_strip(target: Target) -> int:
    """Pixels whose sums for one vector of channels take half the registers."""
    return min(target.vector_registers // 2, most_rows(target.vector_bits // 8, target.vector_registers))


def even_strip(width: int, limit: int) -> int:
    """The length of the fewest strips of at most `limit` that cover a width, as equal as can be."""
    return -(-width // -(-width // limit))


def _pieces(extent: int, size: int) -> list[tuple[int, int]]:
    """(length, how often) of the strips that cover an extent."""
    full, rest = divmod(extent, size)
    return [(size, full)] * (full > 0) + [(rest, 1)] * (rest > 0)
