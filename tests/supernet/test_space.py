from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.architecture import SKIP, Choice
from supernet.named import mobilenet_v2
from supernet.presets import CIFAR, DIGITS, IMAGENET, PRESETS, preset
from supernet.space import SearchSpace, SpaceError, Stage

spaces = pytest.mark.parametrize("space", PRESETS.values(), ids=PRESETS)


def test_imagenet_is_the_papers_space() -> None:
    blocks = IMAGENET.blocks
    assert len(blocks) == 21
    assert sum(SKIP in block.candidates for block in blocks) == 15
    assert IMAGENET.size == 7**15 * 6**6
    assert {len(block.candidates) for block in blocks} == {6, 7}
    strides = [block.stride for block in blocks if block is blocks[0] or block.stride == 2]
    assert strides == [2, 2, 2, 2]
    assert [op.key for op in IMAGENET.fixed_ops()] == [
        "conv-n1-h224w224-i3-o32-k3-s2-e1-float32",
        "mbconv-n1-h112w112-i32-o16-k3-s1-e1-float32",
        "conv-n1-h7w7-i320-o1280-k1-s1-e1-float32",
        "pool-n1-h7w7-i1280-o1280-k1-s1-e1-float32",
        "linear-n1-h1w1-i1280-o1000-k1-s1-e1-float32",
    ]
    # Twelve distinct blocks with a first and a repeated form, less the single one of the last stage, 6 candidates each.
    assert len(IMAGENET.op_specs()) == 5 + 6 * 11


@spaces
def test_small_presets_halve_three_times_at_most(space: SearchSpace) -> None:
    assert space.fixed_ops()[-3].height == {"imagenet": 7, "cifar": 4, "digits": 2}[space.name]
    assert space.baseline.resolution == space.resolution
    assert space.baseline.classes == space.classes


@spaces
@given(seed=st.integers(0, 2**32))
def test_every_network_is_made_of_the_measured_operators(space: SearchSpace, seed: int) -> None:
    arch = space.random_architecture(Random(seed))
    assert set(arch.op_specs()) <= set(space.op_specs())
    assert len(arch.blocks) == len(space.blocks) + 1


@spaces
def test_operators_are_distinct_and_scale_with_the_batch(space: SearchSpace) -> None:
    ops = space.op_specs(batch=4)
    assert len(set(ops)) == len(ops) == len(space.op_specs())
    assert {op.batch for op in ops} == {4}


@spaces
def test_a_widened_space_has_the_same_choices_at_other_widths(space: SearchSpace) -> None:
    assert space.widened(1.0) == space
    wide = space.widened(1.5)
    assert [block.candidates for block in wide.blocks] == [block.candidates for block in space.blocks]
    for block, original in zip(wide.blocks, space.blocks):
        assert block.out_channels % 8 == 0
        assert 1.3 * original.out_channels < block.out_channels < 1.8 * original.out_channels
        assert (block.size, block.stride) == (original.size, original.stride)
    assert wide.fixed_ops()[-1].in_channels == 1.5 * space.head_channels


def test_a_stage_may_have_kernels_and_expansions_of_its_own() -> None:
    space = replace(DIGITS, stages=(Stage(16, 1, 1), Stage(24, 2, 2, kernels=(3,), expands=(1, 4)), Stage(24, 1, 1)))
    usual = tuple(Choice(k, e) for e in (3, 6) for k in (3, 5, 7))
    own = (Choice(3, 1), Choice(3, 4))
    assert [block.candidates for block in space.blocks] == [usual, own, (*own, SKIP), (*usual, SKIP)]


@spaces
def test_a_space_without_skip(space: SearchSpace) -> None:
    always = replace(space, skip=False)
    assert {len(block.candidates) for block in always.blocks} == {6}
    assert set(always.op_specs()) == set(space.op_specs())


@spaces
@given(share=st.floats(0.0, 1.0))
def test_every_network_within_a_limit_of_memory_keeps_it(space: SearchSpace, share: float) -> None:
    """Exactly: no operator that keeps the limit is lost, none that does not is left."""
    peaks = sorted(op.peak_bytes for op in space.op_specs())
    least = least_memory(space)
    limit = int(least + share * (peaks[-1] - least))
    small = space.within_memory(limit)
    assert small.name == space.name
    assert set(small.op_specs()) == {op for op in space.op_specs() if op.peak_bytes <= limit}
    arch = small.random_architecture(Random(0))
    assert max(op.peak_bytes for op in arch.op_specs()) <= limit
    assert small.within_memory(2 * limit) == small
    assert (small.size == space.size) == (limit >= peaks[-1])


def least_memory(space: SearchSpace) -> int:
    """What the fixed operators need, and the smallest candidate of each block."""
    blocks = [min(0 if (op := b.op_spec(c)) is None else op.peak_bytes for c in b.candidates) for b in space.blocks]
    return max(*blocks, *(op.peak_bytes for op in space.fixed_ops()))


def test_a_limit_may_leave_a_block_only_skip() -> None:
    small = DIGITS.within_memory(80_000)
    assert small.blocks[1].candidates == (SKIP,)
    assert [op.key for op in small.fixed_ops()] == [op.key for op in DIGITS.fixed_ops()]


def test_a_limit_below_a_fixed_operator() -> None:
    """Input 112x112x32 and as much again after depthwise, four bytes each."""
    bytes_ = 4 * 2 * 112 * 112 * 32
    with pytest.raises(
        SpaceError,
        match=f"Every network of space imagenet runs mbconv-n1-h112w112-i32-o16-k3-s1-e1-float32, which needs {bytes_} "
        f"bytes of activations, more than the limit of {bytes_ - 1}. The least limit that works is {bytes_}",
    ):
        IMAGENET.within_memory(bytes_ - 1)
    assert IMAGENET.within_memory(bytes_).max_activation_bytes == bytes_


def test_a_limit_that_leaves_a_block_nothing() -> None:
    with pytest.raises(
        SpaceError,
        match=r"Block 2 of space digits has no smaller operator than mbconv-n1-h16w16-i16-o24-k3-s2-e3-float32, which "
        r"needs 65536 bytes of activations, more than the limit of 1000. The least limit that works is 65536",
    ):
        DIGITS.within_memory(1000)
    assert DIGITS.within_memory(65536).size > 1


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_is_none(limit: int) -> None:
    with pytest.raises(SpaceError, match=f"A limit of activations must be 1 byte or more, got {limit}"):
        DIGITS.within_memory(limit)


def test_other_classes_share_the_calibration() -> None:
    space = CIFAR.for_task(classes=100)
    assert space == CIFAR.with_classes(100)
    assert space.name == "cifar"


def test_another_resolution_is_the_baselines_too() -> None:
    space = CIFAR.for_task(resolution=48)
    assert (space.name, space.resolution, space.baseline.resolution) == ("cifar-r48", 48, 48)
    assert [b.stride for b in space.blocks] == [b.stride for b in CIFAR.blocks]
    assert space.baseline == mobilenet_v2(resolution=48, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1))
    assert space.fixed_ops()[-3].height == 6


def test_another_width_leaves_the_baseline() -> None:
    space = CIFAR.for_task(width=0.5)
    assert space == replace(CIFAR.widened(0.5), name="cifar@0.5")
    assert space.baseline == CIFAR.baseline


@spaces
def test_a_task_that_changes_nothing(space: SearchSpace) -> None:
    assert space.for_task() == space
    assert space.for_task(classes=space.classes, resolution=space.resolution, width=1.0) == space


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda s: s.for_task(resolution=48, width=0.5, classes=3), "cifar@0.5-r48"),
        (lambda s: s.for_task(resolution=48).for_task(width=0.5), "cifar@0.5-r48"),
        (lambda s: s.for_task(width=0.5).for_task(resolution=48), "cifar@0.5-r48"),
        (lambda s: s.for_task(resolution=64).for_task(resolution=48), "cifar-r48"),
        (lambda s: s.for_task(width=2), "cifar@2"),
        (lambda s: s.for_task(width=0.123456789), "cifar@0.123456789"),
    ],
)
def test_the_name_tells_what_changes_operators(change: Callable[[SearchSpace], SearchSpace], name: str) -> None:
    assert change(CIFAR).name == name


def test_a_task_keeps_the_limit_of_memory() -> None:
    small = DIGITS.within_memory(80_000)
    assert small.for_task(classes=3, width=0.5).max_activation_bytes == 80_000
    assert small.widened(2.0) == DIGITS.widened(2.0)
    with pytest.raises(SpaceError, match=r"space digits-r32 .* more than the limit of 80000"):
        small.for_task(resolution=32)


@spaces
def test_a_resolution_that_the_strides_use_up(space: SearchSpace) -> None:
    least = space.total_stride
    assert space.for_task(resolution=least).fixed_ops()[-3].height == 1
    with pytest.raises(
        SpaceError,
        match=f"strides of the space {space.name}-r{least - 1} multiply to {least}, more than its resolution of "
        f"{least - 1} pixels: nothing .* Take {least} pixels or more, or smaller strides in stem and stages",
    ):
        space.for_task(resolution=least - 1)


def test_a_baseline_whose_strides_use_up_the_image() -> None:
    with pytest.raises(
        SpaceError, match=r"The strides of the baseline of space digits multiply to 32, .* a baseline with"
    ):
        replace(DIGITS, baseline=mobilenet_v2())


def test_tasks_that_cannot_be() -> None:
    with pytest.raises(SpaceError, match="A space needs 1 class or more, got 0"):
        CIFAR.for_task(classes=0)
    for width in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SpaceError, match=r"A width multiplies channels and must be a positive number such as 0.5"):
            CIFAR.for_task(width=width)


def test_describe() -> None:
    assert CIFAR.describe() == "cifar: 21 blocks, 2.2e+17 networks, 32 pixels, 10 classes"
    assert DIGITS.within_memory(80_000).describe().endswith("10 classes, at most 80000 bytes of activations")
    single = replace(DIGITS, stages=(Stage(16, 2, 1),))
    assert single.describe() == "digits: 2 blocks, 42 networks, 16 pixels, 10 classes"
    assert "1.2e+389 networks" in replace(DIGITS, stages=(Stage(16, 500, 1),), skip=False).describe()


def test_skip_has_no_operator() -> None:
    block = next(block for block in CIFAR.blocks if SKIP in block.candidates)
    assert block.op_spec(SKIP) is None
    assert block.peak_bytes(SKIP) == 0
    assert block.op_spec(Choice(5, 6)) is not None


def test_with_classes_changes_the_baseline_too() -> None:
    space = DIGITS.with_classes(3)
    assert space.fixed_ops()[-1].out_channels == space.baseline.op_specs()[-1].out_channels == 3


def test_too_few_choices() -> None:
    with pytest.raises(SpaceError, match="Space digits has 10 blocks to choose, got 1 choices"):
        DIGITS.architecture([SKIP])


def test_a_choice_that_is_no_candidate() -> None:
    choices = [block.candidates[0] for block in DIGITS.blocks]
    choices[2] = SKIP
    with pytest.raises(SpaceError, match=r"Block 2 of space digits has no candidate skip: k3e3, k5e3"):
        DIGITS.architecture(choices)


def test_preset() -> None:
    assert preset("cifar") is CIFAR
    with pytest.raises(SpaceError, match=r"Unknown space 'imagnet'. Did you mean imagenet"):
        preset("imagnet")
    with pytest.raises(SpaceError, match=r"Unknown space 'zzz'. Known: imagenet, cifar, digits"):
        preset("zzz")
