from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.architecture import SKIP, Choice
from supernet.space import CIFAR, DIGITS, IMAGENET, PRESETS, SearchSpace, SpaceError, preset

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


def test_skip_has_no_operator() -> None:
    block = next(block for block in CIFAR.blocks if SKIP in block.candidates)
    assert block.op_spec(SKIP) is None
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
    with pytest.raises(SpaceError, match="Block 2 of space digits has no candidate skip: k3e3, k5e3"):
        DIGITS.architecture(choices)


def test_preset() -> None:
    assert preset("cifar") is CIFAR
    with pytest.raises(SpaceError, match=r"Unknown space 'imagnet'. Did you mean imagenet"):
        preset("imagnet")
    with pytest.raises(SpaceError, match=r"Unknown space 'zzz'. Known: imagenet, cifar, digits"):
        preset("zzz")
