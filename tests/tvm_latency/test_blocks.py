"""Which convolutions become one kernel, and that the network answers the same whichever do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import numpy_helper

from targets.registry import get_target
from tvm_latency.blocks import inverted_residual
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.lower import lower
from tvm_latency.match import Match
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec

pytestmark = pytest.mark.compiles

# Of 8 lanes on every machine; the images here do not fit half its second cache, some rows of them do.
TARGET = replace(get_target("x86-64-v3"), l2_bytes=16 << 10)
Parse = Callable[..., onnx.ModelProto]

IN = "(float[1,8,9,9] x)"
EXPAND = "e = Conv (x, we, be)  f = Relu (e)"
DEPTHWISE = "d = Conv <group=32, pads=[1,1,1,1]> (f, wd)  g = Relu (d)"
PROJECT = "p = Conv (g, wp, bp)"
CONSTANTS: dict[str, Any] = {
    "we": (32, 8, 1, 1),
    "be": (32,),
    "wd": (32, 1, 3, 3),
    "w1": (32, 1, 1, 1),
    "wg": (32, 2, 3, 3),
    "wp": (8, 32, 1, 1),
    "bp": (8,),
    "wide": (32, 32, 1, 1),
    "six": np.float32(6),
    "zero": np.float32(0),
}
BLOCK = f"{EXPAND} {DEPTHWISE} {PROJECT}"
SAME = "(float[1,8,9,9] y)"

# The convolutions of each fused kernel, in order of their names; an empty list where none may be fused.
CASES: dict[str, tuple[str, list[int]]] = {
    "expand, depthwise, project": (f"{IN} => (float[1,8,9,9] p) {{ {BLOCK} }}", [3]),
    "depthwise, project": (f"(float[1,32,9,9] f) => (float[1,8,9,9] p) {{ {DEPTHWISE} {PROJECT} }}", [2]),
    "a residual": (f"{IN} => {SAME} {{ {BLOCK} y = Add (x, p) }}", [3]),
    "a residual from elsewhere": (f"(float[1,8,9,9] x, float[1,8,9,9] z) => {SAME} {{ {BLOCK} y = Add (p, z) }}", [3]),
    "a residual and an activation": (f"{IN} => {SAME} {{ {BLOCK} a = Add (p, x) y = Relu (a) }}", [3]),
    "project with an activation": (f"{IN} => {SAME} {{ {BLOCK} y = Clip (p, zero, six) }}", [3]),
    "expand without an activation": (
        f"{IN} => (float[1,8,9,9] p) {{ f = Conv (x, we, be) {DEPTHWISE} {PROJECT} }}",
        [3],
    ),
    "no activation at all": (
        f"{IN} => (float[1,8,9,9] p) {{ f = Conv (x, we) g = Conv <group=32, pads=[1,1,1,1]> (f, wd) {PROJECT} }}",
        [3],
    ),
    "stride 2": (
        f"""{IN} => (float[1,8,5,5] p) {{ {EXPAND} g = Conv <group=32, pads=[1,1,1,1], strides=[2,2]> (f, wd)
            {PROJECT} }}""",
        [3],
    ),
    "no padding": (f"{IN} => (float[1,8,7,7] p) {{ {EXPAND} g = Conv <group=32> (f, wd) {PROJECT} }}", [3]),
    "two blocks, one after the other": (
        f"""{IN} => {SAME} {{ {BLOCK} q = Add (p, x)  e2 = Conv (q, we)  f2 = Relu (e2)
            g2 = Conv <group=32, pads=[1,1,1,1]> (f2, wd)  r = Conv (g2, wp)  y = Add (r, q) }}""",
        [3, 3],
    ),
    "depthwise and project in a row": (
        """(float[1,32,9,9] x) => (float[1,32,9,9] y) {
            a = Conv <group=32, pads=[1,1,1,1]> (x, wd)  b = Conv (a, wide)
            c = Conv <group=32, pads=[1,1,1,1]> (b, wd)  d = Relu (c)  y = Conv (d, wide) }""",
        [2, 2],
    ),
    "the expanded tensor is read twice": (
        f"{IN} => (float[1,32,9,9] y) {{ {EXPAND} {DEPTHWISE} p = Conv (g, wide)  y = Add (p, f) }}",
        [2],
    ),
    "the expanded tensor is concatenated": (
        f"{IN} => (float[1,40,9,9] y) {{ {BLOCK} y = Concat <axis=1> (p, f) }}",
        [2],
    ),
    "the expanded tensor is an output": (f"{IN} => (float[1,8,9,9] p, float[1,32,9,9] f) {{ {BLOCK} }}", [2]),
    "what depthwise makes is an output": (f"{IN} => (float[1,8,9,9] p, float[1,32,9,9] g) {{ {BLOCK} }}", []),
    "what depthwise makes is the residual": (
        f"{IN} => (float[1,32,9,9] y) {{ {EXPAND} {DEPTHWISE} p = Conv (g, wide)  y = Add (p, g) }}",
        [],
    ),
    "what depthwise makes is pooled too": (
        f"{IN} => {SAME} {{ {BLOCK} m = GlobalMaxPool (g)  n = Conv (m, wp)  y = Add (p, n) }}",
        [],
    ),
    "depthwise has a residual": (
        f"""{IN} => (float[1,8,9,9] p) {{ {EXPAND} d = Conv <group=32, pads=[1,1,1,1]> (f, wd)  g = Add (d, f)
            {PROJECT} }}""",
        [],
    ),
    "two channels in a group": (
        f"{IN} => (float[1,8,9,9] p) {{ {EXPAND} g = Conv <group=16, pads=[1,1,1,1]> (f, wg) {PROJECT} }}",
        [],
    ),
    "project is no matrix product": (
        f"{IN} => (float[1,8,5,5] p) {{ {EXPAND} {DEPTHWISE} p = Conv <strides=[2,2]> (g, wp, bp) }}",
        [],
    ),
    "depthwise skips rows": (
        f"{IN} => (float[1,8,5,5] p) {{ {EXPAND} g = Conv <group=32, strides=[2,2]> (f, w1) {PROJECT} }}",
        [],
    ),
}


def fused(kernels: tuple[str, ...]) -> list[str]:
    return [name for name in kernels if name.startswith("inverted_residual_")]


def outputs(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, inputs)


def magnitudes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with the magnitudes of its constants, without upper bounds."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        array = np.float32(np.inf) if tensor.name == "six" else abs(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))
    return result


def assert_right(model: onnx.ModelProto, compiled: Compiled) -> None:
    """Both sides round each of the additions, by eps/2 of the sum of magnitudes; clips bring nothing further apart."""
    random = np.random.default_rng(0)
    inputs = {
        node.name: random.standard_normal([d.dim_value for d in node.type.tensor_type.shape.dim]).astype(np.float32)
        for node in model.graph.input
    }
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    convolutions = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    additions = sum(int(np.prod(shapes[weights][1:])) + 2 for weights in convolutions)
    result = compiled.load()(*map(tvm.runtime.tensor, inputs.values()))
    got = [tensor.numpy() for tensor in ([result] if hasattr(result, "numpy") else result)]
    bounds = outputs(magnitudes(model), {name: abs(x) for name, x in inputs.items()})
    for found, expected, bound in zip(got, outputs(model, inputs), bounds, strict=True):
        assert expected.any(), "zeros are no evidence"
        assert np.all(abs(found - expected) <= additions * np.finfo(np.float32).eps * bound)


@pytest.mark.parametrize("case", CASES)
def test_what_is_fused_and_that_it_is_right(case: str, parse_model: Parse) -> None:
    text, expected = CASES[case]
    model = parse_model(text, **{name: value for name, value in CONSTANTS.items() if name in text})
    compiled = compile_onnx(model, TARGET)
    calls = [name.count("__") + 1 for name in fused(compiled.kernels)]
    # Two blocks of one shape share a kernel.
    assert sorted(set(calls)) == sorted(set(expected))
    assert len(calls) <= len(expected)
    assert_right(model, compiled)


@pytest.mark.parametrize(("room", "count"), [(0, 1), (-2, 0)])
def test_a_block_is_fused_where_its_rows_stay_in_half_the_second_cache(
    room: int, count: int, parse_model: Parse
) -> None:
    text = CASES["expand, depthwise, project"][0]
    model = parse_model(text, **{name: value for name, value in CONSTANTS.items() if name in text})
    rows = (3 * (9 + 2) + 9) * 32 * 4
    assert len(fused(lower(model, replace(TARGET, l2_bytes=2 * rows + room)).kernels)) == count


DEPTHWISE_SPEC = ConvSpec(
    batch=1, height=9, width=9, in_channels=32, out_channels=32, kernel=(3, 3), padding=1, groups=32
)
PROJECT_SPEC = ConvSpec(batch=1, height=9, width=9, in_channels=32, out_channels=8)


@pytest.mark.parametrize(
    ("depthwise", "project", "is_block"),
    [
        ({}, {}, True),
        ({"groups": 1}, {}, False),
        ({"groups": 16}, {}, False),
        ({"in_channels": 16, "groups": 16}, {}, False),  # two results of each channel
        ({}, {"stride": 2}, False),
        ({}, {"kernel": (3, 3), "padding": 1}, False),
        ({"residual": True}, {}, False),
        ({}, {"residual": True}, True),
    ],
)
def test_convolutions_that_make_up_a_block(depthwise: dict[str, Any], project: dict[str, Any], is_block: bool) -> None:
    first, last = replace(DEPTHWISE_SPEC, **depthwise), replace(PROJECT_SPEC, **project)
    block = inverted_residual((Match(spec=first, input=None), Match(spec=last, input=None)))
    assert block == (BlockSpec(expand=None, depthwise=first, project=last) if is_block else None)
