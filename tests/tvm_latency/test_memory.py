"""No two tensors that live at once share a byte, and the workspace is not larger than it has to be."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_latency.memory import ALIGNMENT, Lifetime, aligned, plan_memory

STEPS = 12


@st.composite
def lifetimes(draw: st.DrawFn) -> Lifetime:
    first = draw(st.integers(0, STEPS))
    return Lifetime(draw(st.integers(0, 1000)), first, draw(st.integers(first, STEPS)))


def live_at(tensors: list[Lifetime], step: int) -> list[int]:
    return [i for i, tensor in enumerate(tensors) if tensor.first <= step <= tensor.last]


@given(st.lists(lifetimes(), max_size=15))
def test_tensors_that_live_at_once_share_no_byte(tensors: list[Lifetime]) -> None:
    offsets, _ = plan_memory(tensors)
    assert len(offsets) == len(tensors)
    for step in range(STEPS + 1):
        spans = sorted((offsets[i], offsets[i] + tensors[i].size) for i in live_at(tensors, step) if tensors[i].size)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@given(st.lists(lifetimes(), max_size=15))
def test_the_workspace_holds_every_tensor_and_is_no_larger_than_all_side_by_side(tensors: list[Lifetime]) -> None:
    offsets, total = plan_memory(tensors)
    assert all(offset >= 0 and offset % ALIGNMENT == 0 for offset in offsets)
    assert total == max((offset + aligned(tensor.size) for offset, tensor in zip(offsets, tensors)), default=0)
    sizes = [aligned(tensor.size) for tensor in tensors]
    most_at_once = max(sum(sizes[i] for i in live_at(tensors, step)) for step in range(STEPS + 1))
    assert most_at_once <= total <= sum(sizes)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=15))
def test_a_chain_takes_as_much_as_its_largest_neighbours(sizes: list[int]) -> None:
    """Each tensor is read by the next step alone. Greedy need not reach the least possible: a tensor that comes after
    both its neighbours lies on one of them at worst, and that one on its own larger neighbour."""
    chain = [Lifetime(size, step, step + 1) for step, size in enumerate(sizes)]
    _, total = plan_memory(chain)
    largest_pair = max(aligned(a) + aligned(b) for a, b in pairwise(sizes))
    assert largest_pair <= total <= largest_pair + max(map(aligned, sizes))


@given(st.integers(1, 20), st.integers(1, 1000))
def test_a_chain_of_equal_tensors_takes_two(length: int, size: int) -> None:
    chain = [Lifetime(size, step, step + 1) for step in range(length)]
    offsets, total = plan_memory(chain)
    assert total == min(length, 2) * aligned(size)
    assert [offset // aligned(size) for offset in offsets] == [step % 2 for step in range(length)]


def test_a_narrowing_chain_takes_its_first_pair() -> None:
    """Greedy reaches the least possible: 640 and 512 side by side, everything later below them."""
    chain = [Lifetime(64 * (10 - 2 * step), step, step + 1) for step in range(5)]
    offsets, total = plan_memory(chain)
    assert total == 640 + 512
    assert offsets == [0, 640, 0, 384, 0]


def test_a_residual_keeps_its_bytes_while_others_come_and_go() -> None:
    residual, *others = [Lifetime(128, 0, 4)] + [Lifetime(64, step, step + 1) for step in range(1, 5)]
    offsets, total = plan_memory([residual, *others])
    assert offsets == [0, 128, 192, 128, 192]
    assert total == 256


def test_a_small_tensor_goes_into_a_gap_that_is_exactly_large_enough() -> None:
    low, gap, high = Lifetime(256, 0, 2), Lifetime(192, 0, 0), Lifetime(128, 0, 2)
    offsets, total = plan_memory([low, gap, high, Lifetime(100, 1, 2), Lifetime(64, 1, 2)])
    assert offsets == [0, 256, 448, 256, 384]
    assert total == 576


@pytest.mark.parametrize(("size", "expected"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_sizes_are_whole_cache_lines(size: int, expected: int) -> None:
    assert aligned(size) == expected


def test_nothing_takes_nothing() -> None:
    assert plan_memory([]) == ([], 0)
