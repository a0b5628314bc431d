"""When a block becomes one kernel, and what that keeps; that it is right is tried in test_random_shapes.py."""

import re
from dataclasses import replace

import pytest

from targets.registry import get_target
from tvm_latency.schedules.inverted_residual import inverted_residual
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec

DEPTHWISE = ConvSpec(
    batch=1, height=9, width=9, in_channels=48, out_channels=48, kernel=(3, 3), padding=1, groups=48, clip=(0.0, 6.0)
)
X86 = get_target("x86-64-v3")


def block_of(**changes: object) -> BlockSpec:
    """12 channels expanded to those of the depthwise convolution, and 12 of them again."""
    d = replace(DEPTHWISE, **changes)
    expand = ConvSpec(
        batch=1, height=d.height, width=d.width, in_channels=12, out_channels=d.in_channels, weights=d.weights
    )
    project = replace(expand, height=d.out_height, width=d.out_width, in_channels=d.in_channels, out_channels=12)
    return BlockSpec(expand=expand, depthwise=d, project=project)


def image_bytes(block: BlockSpec) -> int:
    d = block.depthwise
    return d.height * d.width * d.in_channels * 4


def is_taken(block: BlockSpec, l2_bytes: int | None = None) -> bool:
    """On a machine with a second cache of that size; with one that the image just leaves, where none is given."""
    target = replace(X86, l2_bytes=2 * (image_bytes(block) - 1) if l2_bytes is None else l2_bytes)
    return inverted_residual(block, target) is not None


ROWS = (3 * (9 + 2) + 9) * 48 * 4  # with margins; and one of the depthwise convolution


@pytest.mark.parametrize("channels", [20, 24])
def test_the_last_vector_of_expanded_channels_may_be_in_part(channels: int) -> None:
    assert is_taken(block_of(in_channels=channels, out_channels=channels, groups=channels))


def test_what_an_output_row_needs_has_to_stay_in_half_the_second_cache() -> None:
    assert is_taken(block_of(), 2 * ROWS)
    assert not is_taken(block_of(), 2 * ROWS - 2)


@pytest.mark.parametrize(
    ("size", "outside", "expanded", "taken"),
    [
        (28, 32, 192, True),  # 28 times 48 KiB of weights, and three times 588 KiB of expanded image
        (14, 64, 384, False),  # 14 times 192 KiB, and three times 294 KiB
        (14, 24, 144, True),  # its weights stay in the level-1 cache
    ],
)
def test_weights_that_are_read_for_every_row_must_be_fewer_bytes_than_the_expanded_image(
    size: int, outside: int, expanded: int, taken: bool
) -> None:
    depthwise = replace(
        DEPTHWISE, height=size, width=size, in_channels=expanded, out_channels=expanded, groups=expanded
    )
    image = replace(depthwise, kernel=(1, 1), padding=0, groups=1)
    block = BlockSpec(
        expand=replace(image, in_channels=outside), depthwise=depthwise, project=replace(image, out_channels=outside)
    )
    target = replace(X86, l1d_bytes=64 << 10, l2_bytes=2 << 20)
    assert (inverted_residual(block, target) is not None) == taken
    # What leaves the second cache costs more.
    small = replace(target, l2_bytes=2 * image_bytes(block) - 1)
    assert inverted_residual(block, small) is not None


def test_a_block_that_skips_rows_and_a_single_convolution_are_not_taken() -> None:
    assert not is_taken(block_of(kernel=(1, 1), padding=0, stride=2))
    assert is_taken(block_of(kernel=(2, 2), padding=0, stride=2))
    assert inverted_residual(DEPTHWISE, replace(X86, l2_bytes=16 << 10)) is None


def test_what_stays_in_the_cache_are_rows_and_not_the_image() -> None:
    """With a 5x5 kernel an output row needs five expanded rows, at both ends two more pixels."""
    kernel = inverted_residual(block_of(height=56, width=56, kernel=(5, 5), padding=2), replace(X86, l2_bytes=1 << 20))
    assert kernel is not None
    script = kernel.func.script()
    found = re.search(r"expand_weights: T\.Buffer\(\(\d+, 12, (\d+)\)", script)
    assert found is not None
    columns = int(found.group(1))
    shapes = [tuple(map(int, sizes.split(","))) for sizes in re.findall(r"alloc_buffer\(\(([\d, ]+)\)", script)]
    blocks = -(-48 // columns)
    assert shapes[:2] == [(blocks, 5, 60, columns), (56, blocks * columns)]


@pytest.mark.parametrize(("size", "threads", "parallel"), [(56, 2, True), (56, 1, False), (9, 2, False)])
def test_threads_are_woken_for_much_work_alone(size: int, threads: int, parallel: bool) -> None:
    block = block_of(height=size, width=size)
    kernel = inverted_residual(block, replace(X86, threads=threads, l2_bytes=2 * (image_bytes(block) - 1)))
    assert kernel is not None
    assert ("T.parallel(" in kernel.func.script()) == parallel
