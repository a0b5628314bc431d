"""Tile choice is arithmetic: it must fit the registers and cover the channels, for any shape and target."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.registry import get_target
from targets.target import Target
from tvm_latency.schedules.tiles import (
    HEAP_BYTES,
    Product,
    Tile,
    divisors,
    even_strip,
    matmul_tile,
    ring_tile,
    store_vector,
)

MACHINES = [(4, 32), (8, 16), (16, 32)]
L1 = 32 << 10


def a_target(lanes: int, registers: int) -> Target:
    return replace(get_target("x86-64-v3"), vector_bits=32 * lanes, vector_registers=registers, l1d_bytes=L1)


@given(
    st.integers(1, 20_000),
    st.integers(1, 2_000),
    st.integers(1, 2_000),
    st.sampled_from(MACHINES),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 32),
    st.booleans(),
)
def test_a_matmul_tile_fits_the_registers_and_covers_the_output(
    m: int, k: int, n: int, machine: tuple[int, int], even: bool, full: bool, most_sums: int | None, by_lane: bool
) -> None:
    lanes, registers = machine
    product = Product(m, k, n, L1, together=lanes if by_lane else 1)
    tile = matmul_tile(product, lanes, registers, even=even, full=full, most_sums=most_sums)
    vectors = tile.columns // tile.vector
    factors = tile.rows if by_lane else 1
    assert tile.rows * vectors + (vectors if tile.rows > 1 else 0) + factors <= registers
    assert tile.rows * vectors <= (most_sums or registers)
    assert 1 <= tile.rows <= m
    assert tile.rows * tile.vector * 4 < HEAP_BYTES
    assert m % tile.rows == 0 or not even
    assert 0 <= tile.blocks(n) * tile.columns - n < tile.columns
    assert (lanes if full else store_vector(n, lanes)) <= tile.vector <= lanes
    assert product.cycles(matmul_tile(product, lanes, registers)) <= product.cycles(tile)


@given(st.integers(1, 300), st.integers(1, 2_000), st.integers(1, 7), st.sampled_from(MACHINES))
def test_a_strip_fits_the_registers_and_covers_the_output(
    width: int, channels: int, kernel: int, machine: tuple[int, int]
) -> None:
    lanes, registers = machine
    row_bytes = kernel * (width + kernel - 1) * 4
    tile = ring_tile(width, channels, row_bytes, a_target(lanes, registers))
    assert tile.rows + 2 <= registers
    assert tile.rows * tile.vector * 4 < HEAP_BYTES
    assert 1 <= tile.rows <= width
    assert 0 <= tile.blocks(channels) * tile.columns - channels < tile.columns
    if lanes * row_bytes <= L1 // 2:
        assert tile.columns * row_bytes <= L1 // 2, "its ring would not stay in the cache"
    else:
        assert tile.columns == lanes


@pytest.mark.parametrize(("n", "lanes", "expected"), [(24, 16, 8), (1432, 16, 8), (10, 16, 2), (96, 16, 16), (7, 8, 1)])
def test_the_store_vector_is_the_widest_power_of_two_that_divides(n: int, lanes: int, expected: int) -> None:
    assert store_vector(n, lanes) == expected


def test_few_channels_use_a_narrow_vector() -> None:
    assert matmul_tile(Product(256, 64, 8, L1), 16, 32).vector == 8


def test_one_row_uses_many_columns() -> None:
    """A linear layer at batch 1 has no rows to reuse a weight for: it needs enough columns to hide the latency."""
    tile = matmul_tile(Product(1, 1280, 1000, L1), 16, 32)
    assert tile.columns // tile.vector >= 8


@pytest.mark.parametrize(
    ("product", "rows", "columns"),
    [
        # 28 sums of 31 registers, and a panel of weights that passes the second cache for every 14 rows.
        (Product(196, 576, 96, L1), 14, 32),
        # 49 pixels have no divisor near 14: 13, 13, 13 and 10.
        (Product(49, 960, 160, L1), 13, 32),
        # Nine vectors: three times three, not four times two and one.
        (Product(196, 64, 144, L1), 9, 48),
    ],
)
def test_the_tile_that_moves_least_through_the_second_cache(product: Product, rows: int, columns: int) -> None:
    tile = matmul_tile(product, 16, 32)
    assert (tile.rows, tile.columns) == (rows, columns)


def test_where_a_broadcast_is_an_instruction_a_tile_of_one_vector_loads_too_much() -> None:
    """14 rows of one vector do 14 multiply-adds for 15 loads, 6 rows of two do 12 for 8."""
    tile = matmul_tile(Product.on(a_target(8, 16), 196, 288, 96), 8, 16)
    assert (tile.rows, tile.columns) == (6, 16)


def test_weights_that_stay_in_the_first_cache_let_strips_go_outermost() -> None:
    tile = Tile(4, 96, 16)
    assert Product(12544, 16, 96, L1).strips_outermost(tile)
    assert not Product(196, 96, 96, L1).strips_outermost(tile)


def test_divisors() -> None:
    assert divisors(28, 14) == [1, 2, 4, 7, 14]


@given(st.integers(1, 500), st.integers(1, 32))
def test_even_strips_are_as_few_and_as_equal_as_can_be(width: int, limit: int) -> None:
    strip = even_strip(width, limit)
    assert 1 <= strip <= limit
    count = -(-width // strip)
    assert count == -(-width // limit)
    assert strip == -(-width // count)
