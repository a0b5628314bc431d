"""Kernels whose weights are stored as float16: exactly the float32 arithmetic, on weights rounded once."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.registry import get_target
from targets.target import Target
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import ConvSpec, Kernel, PoolSpec, with_weights

pytestmark = pytest.mark.compiles

TARGETS = ["x86", "x86-64-v3", "x86-64-v4"]
BLOCK = ConvSpec(batch=1, height=14, width=14, in_channels=96, out_channels=96, weights="float16")
KINDS = {
    "pointwise": BLOCK,
    "linear": replace(BLOCK, height=1, width=1, in_channels=320, out_channels=1000),
    "few channels": replace(BLOCK, out_channels=10),
    "depthwise": replace(BLOCK, kernel=(3, 3), padding=1, groups=96),
    "stem": ConvSpec(
        batch=1,
        height=65,
        width=65,
        in_channels=3,
        out_channels=32,
        kernel=(3, 3),
        stride=2,
        padding=1,
        weights="float16",
    ),
    "dense": replace(BLOCK, kernel=(3, 3), padding=1),
}


@st.composite
def convolutions(draw: st.DrawFn, kind: str) -> ConvSpec:
    """Shapes that the kernels of a kind take, with float16 weights."""
    k = 1 if kind == "pointwise" else draw(st.sampled_from([3, 5, 7] if kind == "depthwise" else [1, 3, 5]))
    channels = draw(st.integers(2, 100))
    stride = 1 if kind == "pointwise" else 2 if k == 1 else draw(st.sampled_from([1, 2]))
    return ConvSpec(
        batch=draw(st.integers(1, 2)),
        height=draw(st.integers(k, 16)),
        width=draw(st.integers(k, 16)),
        in_channels=channels,
        out_channels=channels if kind == "depthwise" else draw(st.integers(1, 150)),
        kernel=(k, k),
        stride=stride,
        padding=draw(st.sampled_from([0, k // 2])),
        groups=channels if kind == "depthwise" else 1,
        clip=draw(st.sampled_from([None, (0.0, 6.0), (-1.0, 1.0)])),
        residual=draw(st.booleans()),
        weights="float16",
    )


def library(kernel: Kernel, target: Target) -> tvm.runtime.Executable:
    module = tvm.IRModule({"main": kernel.func.with_attr("global_symbol", "main")})
    return tvm.compile(module, target=tvm.target.Target(target.tvm_attributes()))


def scheduled(spec: ConvSpec, target: Target) -> Kernel:
    kernel = schedule_kernel(spec, target)
    assert kernel is not None
    return kernel


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@pytest.mark.parametrize("kind", ["pointwise", "depthwise", "dense_conv"])
@given(data=st.data())
def test_half_weights_are_computed_with_in_float32(
    x86_targets: list[Target], make_case: Any, kind: str, data: st.DataObject
) -> None:
    """The reference takes the rounded weights, and its bound is that of float32 weights: nothing is added."""
    spec = data.draw(convolutions(kind))
    target = data.draw(st.sampled_from(x86_targets))
    kernel = scheduled(spec, target)
    assert kernel.name.startswith(kind)
    assert kernel.name.endswith("_wfloat16")
    case = make_case(spec, kernel)
    assert case.arguments[1].dtype == np.float16
    tensors = [tvm.runtime.tensor(a) for a in [*case.arguments, case.empty_output()]]
    library(kernel, target)["main"](*tensors)
    assert case.accepts(tensors[-1].numpy())


def assembly(kernel: Kernel, target: Target) -> str:
    return library(kernel, target).mod.inspect_source("s")


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("name", TARGETS)
def test_x86_converts_whole_vectors_and_calls_nothing(spec: ConvSpec, name: str) -> None:
    target = get_target(name)
    code = assembly(scheduled(spec, target), target)
    assert "\tvcvtph2ps\t" in code
    # TVM defines the conversion in every module, for machines without the instruction; here nobody calls it.
    assert not re.search(r"\t(call|jmp)\w*\s+\S*(extendhf|h2f)", code)
    assert not re.search(r"\tvcvtsh2ss\t", code), "one by one"


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_arm_converts_whole_vectors_and_calls_nothing(spec: ConvSpec) -> None:
    target = replace(
        get_target("x86-64-v3"),
        kind="arm",
        mtriple="aarch64-linux-gnu",
        mcpu="cortex-a53",
        vector_bits=128,
        vector_registers=32,
    )
    code = assembly(scheduled(spec, target), target)
    assert re.search(r"\tfcvtl2?\t", code)
    assert not re.search(r"\tbl\s+\S*(extendhf|h2f)", code)


def test_float32_weights_keep_their_names_and_their_code() -> None:
    """What was measured before this choice existed was float32 and is called as it was."""
    single = with_weights(BLOCK, "float32")
    assert "float" not in single.suffix
    assert "float16" not in scheduled(single, get_target("x86-64-v3")).func.script()
    assert BLOCK.suffix == f"{single.suffix}_wfloat16"


def test_a_pool_has_no_weights_to_store() -> None:
    pool = PoolSpec(batch=1, height=7, width=7, channels=8)
    assert with_weights(pool, "float16") is pool


def test_what_half_cannot_hold_comes_out_infinite_and_what_it_rounds_to_zero_does_not_warn() -> None:
    kernel = scheduled(replace(BLOCK, in_channels=1, out_channels=4), get_target("x86-64-v3"))
    (pack,) = kernel.packs
    with np.errstate(all="raise", under="ignore"):
        packed = pack(np.array([65504, 70000, -1e30, 1e-9], np.float32).reshape(4, 1, 1, 1))
    assert packed.ravel()[:4].tolist() == [65504, np.inf, -np.inf, 0]
