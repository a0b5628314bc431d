"""A network that computes in float16: every tensor between its kernels, and a conversion at its end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import tvm
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from targets.registry import get_target
from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.lower import LoweringError, lower

pytestmark = pytest.mark.compiles

SIZE = 33


@pytest.fixture
def phone() -> Target:
    return get_target("arm64-cortex-a76").with_dtype("float16")


def test_everything_between_image_and_answer_is_half(
    phone: Target, mobile_network: Callable[[int], onnx.ModelProto]
) -> None:
    lowered = lower(mobile_network(SIZE), phone, "float16")
    assert lowered.plan is not None
    assert lowered.fallbacks == ()
    assert set(lowered.calls) == set(lowered.kernels)
    first, *middle, last = lowered.plan.steps
    assert first.operands[0].place == "input"
    operands = [*first.operands[1:], *(o for step in middle for o in step.operands), last.operands[0]]
    assert {operand.dtype for operand in operands} == {"float16"}
    assert [(o.place, o.dtype) for o in (first.operands[0], last.operands[-1])] == [
        ("input", "float32"),
        ("output", "float32"),
    ]
    single = lower(mobile_network(SIZE), get_target("arm64-cortex-a76"), "float16")
    assert single.plan is not None
    assert len(lowered.plan.steps) == len(single.plan.steps) + 1
    assert lowered.plan.memory_bytes <= 0.55 * single.plan.memory_bytes


def test_this_machine_answers_what_float32_would_but_for_rounding(
    mobile_network: Callable[[int], onnx.ModelProto],
) -> None:
    target = get_target("x86")
    if target.float16 is None:
        pytest.skip("this machine has no AVX-512 FP16")
    model = mobile_network(SIZE)
    compiled = compile_onnx(model, target.with_dtype("float16"), "float16").load()
    image = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    (expected,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: image})
    error = float(np.abs(compiled(tvm.runtime.tensor(image)).numpy() - expected).max())
    assert 1e-5 < error / float(np.abs(expected).max()) < 3e-2


def test_a_bias_beyond_half_is_refused_by_name(phone: Target, mobile_network: Callable[[int], onnx.ModelProto]) -> None:
    """A clip behind it would hide that it became infinite."""
    model = mobile_network(SIZE)
    tensor = next(t for t in model.graph.initializer if len(t.dims) == 1 and t.dims[0] > 1)
    array = numpy_helper.to_array(tensor).copy()
    array[0] = 1e5
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    with pytest.raises(LoweringError, match=r"has a bias of magnitude 1e\+05; .* with --dtype float32"):
        lower(model, phone, "float16")
    assert lower(model, phone.with_dtype("float32"), "float16").fallbacks == ()
