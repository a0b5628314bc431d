"""Tile sizes from a target's vector width and registers. Pure arithmetic, no TVM."""

from __future__ import annotations

from dataclasses import dataclass

# Both are true of every x86 core since Haswell and of the large ARM cores.
FMA_PER_CYCLE = 2
LOADS_PER_CYCLE = 2
# A fused multiply-add takes 4 cycles; this many must be in flight to keep two units busy.
FMA_IN_FLIGHT = 4 * FMA_PER_CYCLE


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` accumulators; `vector` lanes each, so rows * columns / vector registers."""

    rows: int
    columns: int
    vector: int


def divisors(n: int, limit: int) -> list[int]:
    """The divisors of n up to limit, ascending."""
    return [d for d in range(1, min(n, limit) + 1) if n % d == 0]


def vector_for(channels: int, lanes: int) -> int:
    """The widest power of two of at most `lanes` that divides the channel count."""
    while channels % lanes:
        lanes //= 2
    return lanes


def matmul_tile(m: int, n: int, lanes: int, registers: int) -> Tile:
    """Accumulator tile of an [m, k] x [k, n] product.

    Every step of k costs, for each tile, rows x vectors multiply-adds, one load for each weight vector and one
    broadcast for each row; the slowest of the three, and the latency of the multiply-add, bounds it. Among tiles whose
    accumulators, weight vectors and one broadcast fit the registers, the one with the fewest cycles wins; ties go to
    the tile with fewer panels of weights, which reads the input less often.
    """
    vector = vector_for(n, lanes)

    def cycles(rows: int, vectors: int) -> float:
        step = max(max(rows * vectors, FMA_IN_FLIGHT) / FMA_PER_CYCLE, (rows + vectors) / LOADS_PER_CYCLE)
        return m / rows * (n / (vectors * vector)) * step

    candidates = [
        (rows, vectors)
        for rows in divisors(m, registers)
        for vectors in divisors(n // vector, registers)
        # A single row uses each weight vector once, straight from memory: it needs no register.
        if rows * vectors + (vectors if rows > 1 else 0) + 1 <= registers
    ]
    rows, vectors = min(candidates, key=lambda c: (cycles(*c), -c[1]))
    return Tile(rows, vectors * vector, vector)


def strip_tile(width: int, channels: int, lanes: int, registers: int) -> Tile:
    """A strip of output pixels x a block of channels, for depthwise and dense convolution.

    Each multiply-add reads its input from memory; only accumulators and one weight vector for each column of the tile
    stay in registers. Enough of them must be in flight, and a long strip reuses the weights.
    """
    vector = vector_for(channels, lanes)
    candidates = [
        (strip, vectors)
        for strip in divisors(width, registers)
        for vectors in divisors(channels // vector, 4)
        if strip * vectors + vectors + 1 <= registers
    ]

    def cycles(strip: int, vectors: int) -> float:
        step = max(max(strip * vectors, FMA_IN_FLIGHT) / FMA_PER_CYCLE, (strip + 1) * vectors / LOADS_PER_CYCLE)
        return width / strip * (channels / (vectors * vector)) * step

    strip, vectors = min(candidates, key=lambda c: (cycles(*c), c[1]))
    return Tile(strip, vectors * vector, vector)
