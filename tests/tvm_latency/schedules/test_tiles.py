"""Tile choice is arithmetic: it must fit the registers and cover the channels, for any shape and target."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.schedules.tiles import (
    Tile,
    divisors,
    even_strip,
    matmul_tiles,
    store_vector,
    strip_tiles,
    uneven_tile,
)

MACHINES = [(4, 32), (8, 16), (16, 32)]


def distinct(tiles: tuple[Tile, ...]) -> bool:
    """No tile twice, and no two of one name."""
    return 0 < len(tiles) == len({tile.text for tile in tiles})


@given(st.integers(1, 20_000), st.integers(1, 2_000), st.sampled_from(MACHINES))
def test_a_matmul_tile_fits_the_registers_and_covers_the_output(m: int, n: int, machine: tuple[int, int]) -> None:
    lanes, registers = machine
    tiles = matmul_tiles(m, n, lanes, registers)
    assert distinct(tiles)
    for tile in tiles:
        vectors = tile.columns // tile.vector
        assert tile.rows * vectors + (vectors if tile.rows > 1 else 0) + 1 <= registers
        assert m % tile.rows == 0
        assert n % tile.store == 0
        assert 0 <= tile.blocks(n) * tile.columns - n < tile.columns
        assert tile.store <= tile.vector <= lanes


@given(st.integers(1, 300), st.integers(1, 2_000), st.sampled_from(MACHINES))
def test_a_strip_fits_the_registers_and_covers_the_output(width: int, channels: int, machine: tuple[int, int]) -> None:
    lanes, registers = machine
    tiles = strip_tiles(width, channels, lanes, registers)
    assert distinct(tiles)
    for tile in tiles:
        vectors = tile.columns // tile.vector
        assert tile.rows * vectors + vectors + 1 <= registers
        assert width % tile.rows == 0
        assert 0 <= tile.blocks(channels) * tile.columns - channels < tile.columns


@pytest.mark.parametrize(("n", "lanes", "expected"), [(24, 16, 8), (1432, 16, 8), (10, 16, 2), (96, 16, 16), (7, 8, 1)])
def test_the_store_vector_is_the_widest_power_of_two_that_divides(n: int, lanes: int, expected: int) -> None:
    assert store_vector(n, lanes) == expected


def test_channels_that_are_no_multiple_of_the_vector_still_use_whole_vectors() -> None:
    """24 channels on 16 lanes: two whole vectors, one third of it zeros, beat three halves."""
    tile = matmul_tiles(3136, 24, 16, 32)[0]
    assert (tile.vector, tile.columns, tile.store) == (16, 32, 8)


def test_few_channels_use_a_narrow_vector() -> None:
    assert matmul_tiles(256, 8, 16, 32)[0].vector == 8


def test_one_row_uses_many_columns() -> None:
    """A linear layer at batch 1 has no rows to reuse a weight for: it needs enough columns to hide the latency."""
    tile = matmul_tiles(1, 1280, 16, 32)[0]
    assert tile.columns // tile.vector >= 8


def test_divisors() -> None:
    assert divisors(28, 14) == [1, 2, 4, 7, 14]


@given(st.integers(1, 5_000), st.integers(1, 2_000), st.sampled_from(MACHINES))
def test_an_uneven_tile_fits_the_registers_and_the_output(m: int, n: int, machine: tuple[int, int]) -> None:
    """Accumulators, one vector of weights for each column of vectors, and one broadcast."""
    lanes, registers = machine
    tile = uneven_tile(m, n, lanes, registers)
    vectors = tile.columns // tile.vector
    assert tile.vector == lanes
    assert tile.columns % lanes == 0
    assert tile.rows * vectors + vectors + 1 <= registers
    assert 1 <= tile.rows <= m
    assert 0 <= tile.blocks(n) * tile.columns - n < tile.columns
    assert n % tile.store == 0
    assert lanes % tile.store == 0


@pytest.mark.parametrize(
    ("m", "n", "lanes", "registers", "rows", "columns"),
    [
        (56, 64, 16, 32, 6, 64),  # 112 cycles, as many as 14 x 32 without remainder, with fewer loads
        (6, 16, 16, 32, 6, 16),  # no more rows than there are
        (1, 1000, 16, 32, 1, 64),  # a single row: as many vectors side by side as allowed
        (13, 24, 8, 16, 13, 8),  # 21 cycles; 4 x 24 takes 18 and 4 more to wait for its last row
    ],
)
def test_the_uneven_tile_that_is_cheapest(m: int, n: int, lanes: int, registers: int, rows: int, columns: int) -> None:
    tile = uneven_tile(m, n, lanes, registers)
    assert (tile.rows, tile.columns) == (rows, columns)


@given(st.integers(1, 500), st.integers(1, 32))
def test_even_strips_are_as_few_and_as_equal_as_can_be(width: int, limit: int) -> None:
    strip = even_strip(width, limit)
    assert 1 <= strip <= limit
    count = -(-width // strip)
    assert count == -(-width // limit)
    assert strip == -(-width // count)
