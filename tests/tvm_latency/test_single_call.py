"""One call of one function: the same bits as the virtual machine's calls, whatever lies between them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tvm import relax, topi

from targets.registry import get_target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.lower import lower
from tvm_latency.memory import ALIGNMENT
from tvm_latency.network_plan import plan_network
from tvm_latency.single_call import NETWORK, single_call

pytestmark = pytest.mark.compiles

TARGET = get_target("x86")
Parse = Callable[..., onnx.ModelProto]
Arrays = list[np.ndarray]
MakeNetwork = Callable[[int], onnx.ModelProto]


def functions(module: Any) -> set[str]:
    return {var.name_hint for var, _ in module.functions_items()}


def calls(module: Any) -> list[Any]:
    """What `main` calls, in order."""
    values = [binding.value for block in module["main"].body.blocks for binding in block.bindings]
    return [value for value in values if isinstance(value, relax.Call)]


def answers(main: Callable[..., Any], inputs: Arrays) -> Arrays:
    result = main(*map(tvm.runtime.tensor, inputs))
    return [tensor.numpy() for tensor in ([result] if hasattr(result, "numpy") else result)]


def inputs_of(model: onnx.ModelProto) -> Arrays:
    random = np.random.default_rng(0)
    shapes = [[d.dim_value for d in node.type.tensor_type.shape.dim] for node in model.graph.input]
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def compiled_both_ways(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> tuple[Compiled, Compiled]:
    one = compile_onnx(model, TARGET)
    with monkeypatch.context() as patch:
        patch.setattr("tvm_latency.lower.plan_network", lambda module: None)
        return one, compile_onnx(model, TARGET)


def assert_same_bits(first: Arrays, second: Arrays) -> None:
    assert [(a.dtype, a.shape) for a in first] == [(b.dtype, b.shape) for b in second]
    assert [a.tobytes() for a in first] == [b.tobytes() for b in second]
    assert any(a.any() for a in first), "zeros are no evidence"


C = (8, 8, 3, 3)
ONE_CALL: dict[str, tuple[str, dict[str, Any]]] = {
    "fallbacks": (
        """(float[1,8,9,9] x) => (float[1,8,9,9] y) {
            a = Conv <pads=[1,1,1,1], group=2> (x, grouped)  b = Sigmoid (a)  c = Conv <pads=[1,1,1,1]> (b, w)
            d = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> (c)  y = Softmax <axis=1> (d) }""",
        {"grouped": (8, 4, 3, 3), "w": C},
    ),
    "views": (
        """(float[4,162] x) => (float[648,1] y) {
            a = Reshape (x, image)  b = Conv <pads=[1,1,1,1]> (a, w)  c = Reshape (b, rows)  d = Softmax (c)
            e = Reshape (d, image)  f = MaxPool <kernel_shape=[3,3], pads=[1,1,1,1]> (e)  y = Reshape (f, column) }""",
        {
            "w": C,
            "image": np.array([1, 8, 9, 9]),
            "rows": np.array([72, 9]),
            "column": np.array([648, 1]),
        },
    ),
    "flatten before a product": (
        """(float[2,8,3,3] x) => (float[2,5] y) {
            a = Conv <pads=[1,1,1,1]> (x, w)  b = Flatten (a)  y = MatMul (b, m) }""",
        {"w": C, "m": (72, 5)},
    ),
    "integers": (
        """(float[1,8,9,9] x) => (int64[1,1,9,9] y) {
            a = Conv <pads=[1,1,1,1]> (x, w)  y = ArgMax <axis=1> (a) }""",
        {"w": C},
    ),
    "truth values": (
        """(float[1,8,9,9] x, float[1,8,9,9] z) => (float[1,8,9,9] y) {
            a = Conv <pads=[1,1,1,1]> (x, w)  g = Greater (a, z)  s = Softmax <axis=1> (a)  t = Softmax <axis=2> (a)
            y = Where (g, s, t) }""",
        {"w": C},
    ),
    "doubles and halves": (
        """(float[1,8,9,9] x) => (float[1,8,9,9] y) {
            a = Conv <pads=[1,1,1,1]> (x, w)  d = Cast <to=11> (a)  s = Softmax <axis=1> (d)  h = Cast <to=10> (s)
            t = Softmax <axis=2> (h)  y = Cast <to=1> (t) }""",
        {"w": C},
    ),
    "less than a kibibyte between": (
        """(float[1,4] x) => (float[1,8] y) { a = MatMul (x, m)  b = Softmax (a)  y = MatMul (b, n) }""",
        {"m": (4, 24), "n": (24, 8)},
    ),
    "no dimensions": (
        """(float[1,8,9,9] x) => (float y) {
            a = Conv <pads=[1,1,1,1]> (x, w)  s = ReduceMax <keepdims=0> (a)  e = Softmax <axis=1> (a)
            f = Sub (e, s)  y = ReduceMin <keepdims=0> (f) }""",
        {"w": C},
    ),
    "names that the function uses too": (
        """(float[1,8,9,9] weights, float[1,8,9,9] output) => (float[1,8,9,9] network) {
            a = Conv <pads=[1,1,1,1]> (weights, w)  b = Add (a, output)  network = Conv <pads=[1,1,1,1]> (b, w) }""",
        {"w": C},
    ),
}


def test_a_network_becomes_one_call_of_the_same_bits(
    mobile_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = mobile_network(17)
    lowered = lower(model, TARGET)
    (call,) = calls(lowered.module)
    assert call.op == tvm.ir.Op.get("relax.call_tir")
    assert call.args[0].name_hint == NETWORK
    assert functions(lowered.module) >= {"main", NETWORK, *lowered.kernels}
    one, many = compiled_both_ways(model, monkeypatch)
    assert one.kernels == many.kernels
    assert_same_bits(answers(one.load(), inputs_of(model)), answers(many.load(), inputs_of(model)))


@pytest.mark.parametrize("case", ONE_CALL)
def test_whatever_lies_between_the_kernels(case: str, parse_model: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    text, constants = ONE_CALL[case]
    model = parse_model(text, **constants)
    assert len(calls(lower(model, TARGET).module)) == 1
    one, many = compiled_both_ways(model, monkeypatch)
    assert_same_bits(answers(one.load(), inputs_of(model)), answers(many.load(), inputs_of(model)))


@pytest.mark.parametrize(
    "text",
    [
        "(float[1,8,9,9] x) => (float[1,8,9,9] y) { y = Identity (x) }",
        "(float[1,8,9,9] x) => (float[648] y) { y = Reshape (x, flat) }",
        "(float[1,8,9,9] x) => (float[1,8,9,9] y, float[1,8,9,9] z) { y = Sigmoid (x)  z = Softmax (y) }",
        "(float[1,8,9,9] x) => (float[1,2,9,9] y, int64[1,2,9,9] z) { y, z = TopK <axis=1> (x, two) }",
        "(float[1,8,9,9] x) => (float[3] y) { y = Sigmoid (three) }",
    ],
    ids=["the input", "a view of the input", "several outputs", "a sort", "a constant"],
)
def test_what_is_more_than_kernels_and_views_stays_as_it_is(text: str, parse_model: Parse) -> None:
    constants = {"flat": np.array([648]), "two": np.array([2]), "three": np.ones(3, np.float32)}
    model = parse_model(text, **{name: value for name, value in constants.items() if name in text})
    assert NETWORK not in functions(lower(model, TARGET).module)
    (x,) = inputs_of(model)
    first = answers(compile_onnx(model, TARGET).load(), [x])[0]
    expected = {"Identity": x, "Reshape": x.reshape(-1), "TopK": -np.sort(-x, axis=1)[:, :2]}
    for name, value in expected.items():
        if name in text:
            np.testing.assert_array_equal(first, value)


# What a step makes of two earlier tensors and a constant: in Relax and in NumPy.
SHAPE = (4, 6)
STEPS: dict[str, tuple[Callable[..., Any], Callable[..., np.ndarray]]] = {
    "add": (lambda emit, a, b, _: emit(topi.add, a, b), lambda a, b, _: a + b),
    "constant": (lambda emit, a, _, c: emit(topi.maximum, a, c), lambda a, _, c: np.maximum(a, c)),
    "view": (
        lambda emit, a, _, __: emit(topi.reshape, emit(topi.reshape, a, (24,)), SHAPE),
        lambda a, _, __: a.reshape(24).reshape(SHAPE),
    ),
    "truth": (
        lambda emit, a, b, c: emit(topi.where, emit(topi.greater, a, b), a, c),
        lambda a, b, c: np.where(a > b, a, c),
    ),
    "double": (
        lambda emit, a, *_: emit(topi.cast, emit(topi.negative, emit(topi.cast, a, "float64")), "float32"),
        lambda a, *_: -a,
    ),
    "larger": (
        lambda emit, a, b, _: emit(topi.strided_slice, emit(topi.concatenate, [a, b]), [2, 0], [6, 6], [1, 1]),
        lambda a, b, _: np.concatenate([a, b])[2:6],
    ),
}
Program = list[tuple[str, int, int]]


def emitted(program: Program, output: int, x: np.ndarray) -> tuple[Any, np.ndarray]:
    """A Relax module of such steps on x and what it answers. Small integers are exact."""
    constants = [np.random.default_rng(i).integers(-9, 9, SHAPE).astype(np.float32) for i in range(3)]
    shared, builder = [relax.const(array) for array in constants], relax.BlockBuilder()
    param = relax.Var("x", relax.TensorType(SHAPE, "float32"))
    values, arrays = [param], [x]
    with builder.function("main", [param]):
        with builder.dataflow():
            for kind, a, b in program:
                emit, compute = STEPS[kind]
                arrays.append(compute(arrays[a % len(arrays)], arrays[b % len(arrays)], constants[b % 3]))
                values.append(emit(builder.emit_te, values[a % len(values)], values[b % len(values)], shared[b % 3]))
            result = builder.emit_output(values[output % len(values)])
        builder.emit_func_output(result)
    return builder.get(), arrays[output % len(arrays)]


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.tuples(st.sampled_from(list(STEPS)), st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=12),
    st.integers(0, 99),
)
def test_any_order_of_kernels_and_views_is_right(program: Program, output: int) -> None:
    """Tensors that live long or briefly, views of views, outputs that others read, results that nobody reads."""
    x = np.random.default_rng(7).integers(-9, 9, SHAPE).astype(np.float32)
    module, expected = emitted(program, output, x)
    plan = plan_network(module)
    one = single_call(module, plan) if plan else module
    executable = tvm.compile(one, tvm.target.Target(TARGET.tvm_attributes()), relax_pipeline="default_build")
    np.testing.assert_array_equal(answers(relax.VirtualMachine(executable, tvm.cpu())["main"], [x])[0], expected)
    # A view of the input is computed by nobody.
    assert (NETWORK in functions(one)) == (not np.shares_memory(expected, x))


def test_a_constant_that_is_read_twice_is_stored_once() -> None:
    module, _ = emitted([("constant", 0, 1), ("add", 1, 0), ("constant", 2, 1)], 3, np.zeros(SHAPE, np.float32))
    plan = plan_network(module)
    assert plan is not None
    assert plan.weights.size == 2 * ALIGNMENT  # 24 floats


def test_two_threads_answer_the_same(mobile_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels that wake threads within the one call: TVM has a pool for each thread that calls it."""
    model = mobile_network(130)
    (x,) = inputs_of(model)
    monkeypatch.setenv("TVM_NUM_THREADS", "2")
    compiled = [compile_onnx(model, replace(TARGET, threads=threads)) for threads in (1, 2)]
    with ThreadPoolExecutor(1) as executor:
        one, two = (executor.submit(answers, c.load(), [x]).result() for c in compiled)
    assert any(
        "T.parallel(" in f.script() for _, f in lower(model, replace(TARGET, threads=2)).module.functions_items()
    )
    assert_same_bits(one, two)


MISALIGNED = """
import numpy as np, onnx, sys, tvm, tvm_ffi
from targets.registry import get_target
from tvm_latency.build import compile_onnx

main = compile_onnx(onnx.load(sys.argv[1]), get_target("x86")).load()
memory = np.random.default_rng(0).standard_normal(3 * 17 * 17 + 32).astype(np.float32)
first = -memory.ctypes.data % 64 // 4
for past in range(17):
    x = memory[first + past :][: 3 * 17 * 17].reshape(1, 3, 17, 17)
    try:
        same = (main(tvm_ffi.from_dlpack(x)).numpy() == main(tvm.runtime.tensor(x)).numpy()).all()
        print("right" if same else "wrong")
    except ValueError as error:
        print(error)
"""


def test_an_input_that_begins_within_a_cache_line_is_refused(mobile_network: MakeNetwork, tmp_path: Any) -> None:
    """In a process of its own: where nothing checks, the kernel's vector loads end it."""
    onnx.save(mobile_network(17), tmp_path / "network.onnx")
    command = [sys.executable, "-c", MISALIGNED, str(tmp_path / "network.onnx")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    refusal = "Input image must begin at a multiple of 64 bytes. Copy it with tvm.runtime.tensor(array)."
    assert done.stdout.splitlines() == ["right", *[refusal] * 15, "right"]
