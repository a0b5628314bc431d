"""A model with weights stored as float16: half the bytes, the same network up to the rounding of its weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from targets.registry import get_target
from tvm_latency.build import compile_onnx
from tvm_latency.loaded import LoadedNetwork
from tvm_latency.lower import LoweringError, lower
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec

pytestmark = pytest.mark.compiles

TARGET = get_target("x86")
OPS = [
    OpSpec(kind="conv", height=17, width=17, in_channels=3, out_channels=16, kernel=3, stride=2),
    OpSpec(kind="mbconv", height=9, width=9, in_channels=16, out_channels=16, kernel=5, expand=6),
    OpSpec(kind="conv", height=9, width=9, in_channels=16, out_channels=256),
    OpSpec(kind="pool", height=9, width=9, in_channels=256, out_channels=256),
    OpSpec(kind="linear", height=1, width=1, in_channels=256, out_channels=1000),
]


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same model with the weights of its convolutions and products, not the biases, rounded to float16."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in result.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim > 1:
            tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float16).astype(np.float32), tensor.name))
    return result


def changed(model: onnx.ModelProto, value: float) -> onnx.ModelProto:
    """The same model with one weight of its linear layer set to `value`."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    tensor = next(t for t in result.graph.initializer if tuple(t.dims) == (1000, 256))
    array = numpy_helper.to_array(tensor).copy()
    array[3, 4] = value
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return result


def test_a_network_with_half_weights_is_that_of_the_rounded_weights_to_the_last_bit(tmp_path: Path) -> None:
    model = network_graph(OPS)
    half = compile_onnx(model, TARGET, "float16")
    single = compile_onnx(rounded(model), TARGET)
    assert half.fallbacks == ()
    assert {name.replace("_wfloat16", "") for name in half.kernels} == set(single.kernels)
    files = [c.export(tmp_path / f"{i}.so") for i, c in enumerate((half, single))]
    image = np.random.default_rng(0).standard_normal((1, 3, 17, 17)).astype(np.float32)
    answers = [LoadedNetwork(file)(image) for file in files]
    # Same tiles, same order of additions, and a float16 becomes a float32 without rounding.
    np.testing.assert_array_equal(*answers)
    weights = sum(int(np.prod(t.dims)) for t in model.graph.initializer if len(t.dims) > 1)
    assert files[1].stat().st_size - files[0].stat().st_size == pytest.approx(2 * weights, rel=0.05)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (7e4, r"pointwise_\S+ has a weight of magnitude 7e\+04; float16 ends at 65504"),
        (float("-inf"), r"pointwise_\S+ has a weight of magnitude inf; float16 ends at 65504"),
        (float("nan"), r"pointwise_\S+ has a weight that is not a number; float16 ends at 65504"),
    ],
)
def test_weights_that_half_cannot_hold_are_refused_by_name(value: float, said: str) -> None:
    model = changed(network_graph(OPS), value)
    with pytest.raises(LoweringError, match=f"{said}. Compile the model with --weights float32"):
        lower(model, TARGET, "float16")


def test_the_largest_half_and_one_that_rounds_to_zero_are_weights() -> None:
    for value in (65504.0, 1e-9):
        assert lower(changed(network_graph(OPS), value), TARGET, "float16").fallbacks == ()
