"""How the work of a kernel is cut for a GPU: by an estimate of its clock cycles."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product as choices

from targets.target import Target
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec

# A thread loads and stores so many columns at once, and so many bytes with one instruction.
COLUMNS, VECTOR_BYTES = 4, 16
# A multiprocessor's matrix units begin an instruction, of half of what four threads load of a row, in so many cycles.
MATRIX_CYCLES = 2
# Of one multiprocessor, by compute capability: CUDA C++ Programming Guide, "Compute Capabilities" and "Arithmetic
# Instructions". Threads at once; fused multiply-adds of 32 threads that begin in a cycle, as those of newer ones do.
THREADS, FMA_WARPS = {"sm_80": 2048, "sm_86": 1536, "sm_89": 1536}, {"sm_80": 2}
NEWER_THREADS, NEWER_FMA_WARPS = 2048, 4
REGISTERS = 65536
# Bytes that level 1, and level 2, answer in a cycle.
L1_BYTES, L2_BYTES = 128, 64
# Cycles from a load to its use where level 2 has it; of a block's beginning and end; of threads that meet and add up.
LOAD_CYCLES, BLOCK_CYCLES, MEET_CYCLES = 300, 500, 100
# Of a depthwise convolution, for each multiprocessor.
STRIP_THREADS = 512
# Channels of a part that are computed at once where a product computes its own input; between two launches of a graph.
CHUNK, LAUNCH_CYCLES = 16, 2000
# Rows of a block times parts: so many chunks and the sums of parts fit into the 48 KiB that a kernel shares.
MIDDLE_ROWS = 192


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

    def cycles(self, m: int, k: int, n: int, target: Target) -> float:
        """About how long a product takes."""
        warps, turns = self.threads / 32, -(-k // (COLUMNS * self.parts))
        multiply = turns * COLUMNS * self.rows * self.columns * warps / fma_warps(target)
        # The lanes of a warp read few rows, each of them 16 bytes, and many columns beside each other.
        lanes = min(32, self.column_threads)
        loads = turns * warps * (self.rows * max(1.0, 32 / lanes / 4) + self.columns * max(1.0, lanes * 16 / L1_BYTES))
        fetch = 4 * k * (self.block_rows + self.block_columns) / L2_BYTES
        registers = self.rows * self.columns + COLUMNS * (self.rows + self.columns) + 24
        of_one = -(-self.blocks(m, n) // target.cores)
        return _cycles(of_one, max(multiply, loads, fetch), turns, registers, self, target)


@dataclass(frozen=True)
class MatrixTile:
    """row_tiles x column_tiles sums of 16 x 8 in a warp, and so many warps beside each other in a block.

    parts: of the terms; the warps of a part have all rows and columns of the block.
    """

    row_tiles: int
    column_tiles: int
    row_warps: int
    column_warps: int
    parts: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return 32 * self.row_warps * self.column_warps * self.parts

    @property
    def block_rows(self) -> int:
        """Of a block."""
        return 16 * self.row_tiles * self.row_warps

    @property
    def block_columns(self) -> int:
        """Of a block."""
        return 8 * self.column_tiles * self.column_warps

    def cycles(self, m: int, k: int, n: int, target: Target) -> float:
        """About how long a product takes."""
        warps, turns = self.threads / 32, -(-k // (matrix_terms(target) * self.parts))
        multiply = turns * 2 * self.row_tiles * self.column_tiles * warps * MATRIX_CYCLES
        loads = turns * warps * (2 * self.row_tiles + self.column_tiles) * 32 * 16 / L1_BYTES
        fetch = target.number_bytes * k * (self.block_rows + self.block_columns) / L2_BYTES
        registers = 4 * (self.row_tiles * self.column_tiles + 2 * self.row_tiles + self.column_tiles) + 24
        of_one = -(-(-(-m // self.block_rows) * -(-n // self.block_columns)) // target.cores)
        return _cycles(of_one, max(multiply, loads, fetch), turns, registers, self, target)


def matrix_terms(target: Target) -> int:
    """Terms of a row that four threads load at once for the matrix units."""
    return 4 * VECTOR_BYTES // target.number_bytes


def on_matrix_units(k: int, target: Target) -> bool:
    """Whether they take products of so many terms: whole vectors, and not of plain float32."""
    return target.dtype != "float32" and k % (VECTOR_BYTES // target.number_bytes) == 0


def fma_warps(target: Target) -> int:
    """Fused multiply-adds of 32 threads that begin in a cycle of a multiprocessor."""
    return FMA_WARPS.get(target.mcpu, NEWER_FMA_WARPS)


def _cycles(
    blocks: int, work: float, turns: int, registers: int, tile: ProductTile | MatrixTile, target: Target
) -> float:
    """Of a multiprocessor that has so many blocks: their work, or one thread's waiting if that is longer.

    work: cycles that a block keeps the busiest unit. Each turn of a thread's loop waits for what it loads, and other
    blocks that are there at the same time fill the time.
    """
    threads = THREADS.get(target.mcpu, NEWER_THREADS)
    # What does not fit into the registers at all has fewer of them, says the compiler.
    together = max(1, min(threads // tile.threads, REGISTERS // (registers * tile.threads)))
    waves = -(-blocks // together)
    adding = MEET_CYCLES + 4 * tile.parts if tile.parts > 1 else 0
    return max(blocks * work, waves * turns * LOAD_CYCLES) + waves * BLOCK_CYCLES + adding


def _fits(tile: ProductTile | MatrixTile) -> bool:
    """Whether a block has enough threads, not too many, and no more sums of parts than 32 KiB of shared memory hold."""
    sums = tile.parts * tile.block_rows * tile.block_columns
    return 64 <= tile.threads <= 512 and (tile.parts == 1 or sums <= 8192)


def _product_tiles() -> list[ProductTile]:
    sums = ((1, 4), (2, 4), (4, 4), (8, 4), (4, 8), (8, 8))
    found = (
        ProductTile(*of_thread, row_threads, column_threads, parts)
        for of_thread, row_threads, column_threads, parts in choices(
            sums, (1, 2, 4, 8, 16, 32), (1, 2, 4, 8, 16), (1, 2, 4, 8, 16, 32)
        )
    )
    return [tile for tile in found if _fits(tile)]


def _matrix_tiles() -> list[MatrixTile]:
    found = (MatrixTile(*numbers) for numbers in choices((1, 2, 4), (2, 4), (1, 2, 4), (1, 2, 4, 8), (1, 2, 4, 8, 16)))
    return [tile for tile in found if _fits(tile)]


PRODUCT_TILES, MATRIX_TILES = _product_tiles(), _matrix_tiles()


@lru_cache(maxsize=4096)
def product_tile(m: int, k: int, n: int, target: Target) -> ProductTile:
    """The tile with the shortest estimate; of equal ones that with the fewest parts."""
    return min(PRODUCT_TILES, key=lambda tile: (tile.cycles(m, k, n, target), tile.parts, tile.threads))


@lru_cache(maxsize=4096)
def matrix_tile(m: int, k: int, n: int, target: Target) -> MatrixTile:
    """That of a product on matrix units with the shortest estimate; of equal ones that with the fewest parts."""
    return min(MATRIX_TILES, key=lambda tile: (tile.cycles(m, k, n, target), tile.parts, tile.threads))


def find_tile(m: int, k: int, n: int, target: Target) -> ProductTile | MatrixTile:
    """That of a product whose weights are stored as it is computed, on matrix units where it is for them."""
    return (matrix_tile if on_matrix_units(k, target) else product_tile)(m, k, n, target)


@lru_cache(maxsize=4096)
def fused_tile(spec: BlockSpec, target: Target) -> ProductTile | None:
    """The tile of a depthwise convolution and its product as one kernel; None where they are faster apart."""
    m, k, n = spec.project.out_pixels, spec.project.in_channels, spec.project.out_channels
    apart = depthwise_cycles(spec.depthwise, target) + product_tile(m, k, n, target).cycles(m, k, n, target)
    if k % COLUMNS or target.dtype != "float32":
        return None
    tiles = [tile for tile in PRODUCT_TILES if tile.block_rows * tile.parts <= MIDDLE_ROWS]
    best = min(tiles, key=lambda tile: (fused_cycles(tile, spec, target), tile.parts, tile.threads))
    return best if fused_cycles(best, spec, target) < apart + LAUNCH_CYCLES else None


def fused_cycles(tile: ProductTile, spec: BlockSpec, target: Target) -> float:
    """About how long both take as one kernel: the product, and in every block all channels of its rows."""
    product, taps = spec.project, spec.depthwise.kernel
    m, k, n = product.out_pixels, product.in_channels, product.out_channels
    vectors = tile.block_rows * -(-k // COLUMNS)
    warps = vectors / 32
    multiply = warps * taps[0] * taps[1] * COLUMNS / fma_warps(target)
    loads = warps * taps[0] * taps[1] * 2 * 32 * VECTOR_BYTES / L1_BYTES
    # A chunk at a time, which all threads meet for before and after.
    chunk = CHUNK * tile.parts
    of_chunk = -(-tile.block_rows * chunk // COLUMNS // tile.threads) * taps[0] * LOAD_CYCLES + 2 * MEET_CYCLES
    waits = -(-k // chunk) * of_chunk
    of_one = -(-tile.blocks(m, n) // target.cores)
    return tile.cycles(m, k, n, target) + max(of_one * max(multiply, loads), waits)


def depthwise_strip(spec: ConvSpec, target: Target) -> int:
    """Pixels side by side that a thread of a depthwise convolution computes, out of values it loads once.

    As many as leave every multiprocessor enough threads to hide their loads.
    """
    threads, enough = _threads(spec, target), target.cores * STRIP_THREADS
    return next((pixels for pixels in (4, 2) if threads // pixels >= enough and pixels <= spec.out_width), 1)


def depthwise_cycles(spec: ConvSpec, target: Target) -> float:
    """About how many it takes: multiplying, loading, or one thread's waiting for each row of taps."""
    pixels, (rows, columns) = depthwise_strip(spec, target), spec.kernel
    warps = _threads(spec, target) / pixels / 32 / target.cores
    loads = rows * ((pixels - 1) * spec.stride + 2 * columns)
    work = max(rows * columns * pixels * target.lanes / fma_warps(target), loads * 32 * VECTOR_BYTES / L1_BYTES)
    return max(warps * work, rows * LOAD_CYCLES) + BLOCK_CYCLES


def _threads(spec: ConvSpec, target: Target) -> int:
    """Of a depthwise convolution, if each has a vector of channels of one pixel."""
    return spec.out_pixels * -(-spec.out_channels // target.lanes)
