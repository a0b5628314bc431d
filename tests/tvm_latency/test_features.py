import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from targets.gpus import GPUS
from targets.target import Target
from tvm_latency.features import FEATURES, TERMS, features, terms
from tvm_latency.gpu_work import pair_of
from tvm_latency.opspec import OpSpec, stored_as
from tvm_latency.schedules.gpu.tiles import fused_cycles, fused_tile
from tvm_latency.schedules.tiles import FMA_IN_FLIGHT

TARGET = Target(
    name="test",
    kind="x86",
    mtriple="x86_64-linux-gnu",
    mcpu="x86-64-v4",
    vector_bits=512,
    vector_registers=32,
    l1d_bytes=32 * 1024,
    l2_bytes=1024 * 1024,
    l3_bytes=32 * 1024 * 1024,
    cores=2,
    cpu_model="a test",
)
BLOCK = OpSpec(kind="mbconv", height=14, width=14, in_channels=64, out_channels=64, kernel=3, expand=6)

ops = st.builds(
    OpSpec,
    kind=st.sampled_from(["conv", "mbconv", "pool", "linear"]),
    height=st.integers(1, 64),
    width=st.integers(1, 64),
    in_channels=st.integers(1, 128),
    out_channels=st.integers(1, 128),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 2),
    expand=st.integers(1, 6),
    batch=st.integers(1, 4),
)


def term(op: OpSpec, name: str) -> float:
    return dict(zip(TERMS, terms(op, TARGET)))[name]


def feature(op: OpSpec, name: str, target: Target = TARGET) -> float:
    return dict(zip(FEATURES, features(op, target)))[name]


@pytest.mark.parametrize("target", [TARGET, GPUS[-1], GPUS[0].with_dtype("float16")], ids=lambda target: target.name)
@given(op=ops)
def test_every_operator_has_finite_features_and_work(target: Target, op: OpSpec) -> None:
    values, work = features(op, target), terms(op, target)
    assert len(values) == len(FEATURES)
    assert all(map(math.isfinite, values + work))
    # Otherwise its estimate would be 0 s.
    assert min(work) >= 0
    assert max(work) > 0


@given(op=ops)
def test_the_vector_slots_cover_the_multiply_accumulates(op: OpSpec) -> None:
    issued = sum(term(op, name) for name in TERMS if name.endswith("_issues"))
    # Rounding of a sum of three products.
    assert issued * TARGET.lanes >= op.macs * (1 - 1e-12)
    assert 0 < feature(op, "useful_share") <= 1 + 1e-12


def test_channels_that_fill_the_vectors_waste_nothing() -> None:
    assert feature(BLOCK, "useful_share") == pytest.approx(1.0)
    assert (feature(BLOCK, "hidden_remainder"), feature(BLOCK, "out_remainder")) == (0, 0)
    assert feature(replace(BLOCK, out_channels=72), "useful_share") < 1
    assert feature(replace(BLOCK, out_channels=72), "out_remainder") == 8


def test_a_product_of_one_vector_waits_for_its_sum() -> None:
    linear = OpSpec(kind="linear", height=1, width=1, in_channels=100, out_channels=16)
    assert term(linear, "dense_issues") == 100 * FMA_IN_FLIGHT


def test_a_block_without_expansion_has_two_kernels_and_no_expansion_work() -> None:
    plain = replace(BLOCK, expand=1)
    assert (term(plain, "all_kernels"), term(plain, "expand_issues")) == (2, 0)
    assert term(BLOCK, "all_kernels") == 3


def test_only_what_leaves_the_second_cache_spills() -> None:
    large = replace(BLOCK, height=112, width=112)
    assert term(BLOCK, "spilled_bytes") == 0
    assert term(large, "spilled_bytes") == 112 * 112 * 64 * 6 * 4 - TARGET.l2_bytes


def test_half_weights_change_what_depends_on_their_bytes_and_nothing_else() -> None:
    (half,) = stored_as([BLOCK], "float16")
    work, values = (
        {n for n in names if get(half, n) != get(BLOCK, n)} for names, get in ((TERMS, term), (FEATURES, feature))
    )
    assert work == {"weight_bytes"}
    assert values == {"log_weight_bytes", "log_intensity", "log_weights_over_l2", "log_bytes_over_l3"}


def test_without_a_third_cache_the_second_is_the_last() -> None:
    small = replace(TARGET, l3_bytes=0)
    same = replace(TARGET, l3_bytes=TARGET.l2_bytes)
    assert feature(BLOCK, "log_bytes_over_l3", small) == feature(BLOCK, "log_bytes_over_l3", same)


def test_work_of_a_gpu_is_in_its_cycles() -> None:
    """More multiprocessors have less work each, as far as there are blocks for all."""
    large, h100 = replace(BLOCK, height=112, width=112), GPUS[-1]
    few = replace(h100, cores=33)

    def issues(op: OpSpec, target: Target) -> float:
        return sum(value for name, value in zip(TERMS, terms(op, target)) if name.endswith("issues"))

    assert 3.0 < issues(large, few) / issues(large, h100) < 5.0
    assert 1.0 <= issues(BLOCK, few) / issues(BLOCK, h100) < 3.0
    # Matrix units are some times as fast.
    assert issues(large, h100.with_dtype("float16")) < 0.5 * issues(large, h100)


def test_two_kernels_that_are_one_on_a_gpu_are_counted_as_one() -> None:
    h100, large = GPUS[-1], replace(BLOCK, height=112, width=112)
    assert feature(BLOCK, "kernels") == 3
    assert feature(BLOCK, "kernels", h100) == 2
    assert feature(large, "kernels", h100) == feature(BLOCK, "kernels", h100.with_dtype("float16")) == 3
    work = dict(zip(TERMS, terms(BLOCK, h100)))
    pair = pair_of(BLOCK)
    tile = fused_tile(pair, h100)
    assert tile is not None
    assert work["depthwise_issues"] + work["project_issues"] == pytest.approx(fused_cycles(tile, pair, h100))
