from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from pipeline.peers.interface import RuntimeUnavailableError
from pipeline.peers.layers import read_layers
from supernet.presets import DIGITS
from tvm_latency.onnx_graph import network_graph

WEIGHTS = np.arange(4 * 3 * 9, dtype=np.float32).reshape(4, 3, 3, 3)
MATRIX = np.arange(8, dtype=np.float32).reshape(4, 2)


def model(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """Image [1, 3, 8, 8] -> whatever the last node answers."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph)


def conv(source: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [source, "w"], [output], **attributes)


def test_a_network_is_a_list_of_layers() -> None:
    graph = read_layers(network_graph(DIGITS.baseline.op_specs()), "x")
    assert {layer.kind for layer in graph.layers} == {"conv", "add", "mean", "linear"}
    assert (graph.input, graph.output) == ("image", "logits")
    stem = graph.layers[0]
    assert (stem.kernel, stem.padding, stem.groups, stem.clip) == (3, 1, 1, (0.0, 6.0))
    names = {graph.input}
    for layer in graph.layers:
        assert set(layer.inputs) <= names, "what a layer reads was made before"
        names.add(layer.output)


def test_relu_and_pool_and_flatten() -> None:
    found = read_layers(
        model(
            conv("image", "a", strides=[2, 2], pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
            helper.make_node("ReduceMean", ["c", "axes"], ["d"], keepdims=1),
            helper.make_node("Flatten", ["d"], ["e"]),
            helper.make_node("Gemm", ["e", "m"], ["f"]),
            w=WEIGHTS,
            axes=np.array([2, 3]),
            m=MATRIX,
        ),
        "x",
    )
    first, pool, mean, linear = found.layers
    assert (first.stride, first.clip) == (2, (0.0, np.inf))
    assert (pool.inputs, pool.kernel, pool.stride, pool.padding) == (("a",), 3, 2, 1)
    assert (mean.kind, linear.inputs) == ("mean", ("d",))
    np.testing.assert_array_equal(linear.weights, MATRIX.T)
    np.testing.assert_array_equal(linear.bias, np.zeros(2))


@pytest.mark.parametrize(
    "nodes",
    [
        [helper.make_node("Sigmoid", ["image"], ["a"])],
        [conv("image", "a", dilations=[2, 2])],
        [conv("image", "a", strides=[1, 2])],
        [conv("image", "a", auto_pad="SAME_UPPER")],
        [helper.make_node("Relu", ["image"], ["a"])],
        [conv("image", "a"), helper.make_node("Relu", ["a"], ["b"]), helper.make_node("Add", ["a", "b"], ["c"])],
        [helper.make_node("Add", ["image", "w"], ["a"])],
        [conv("image", "a"), helper.make_node("Flatten", ["a"], ["b"])],
        [helper.make_node("Conv", ["image", "image"], ["a"])],
        [helper.make_node("Gemm", ["image", "m"], ["a"], alpha=2.0)],
    ],
    ids=lambda nodes: f"{nodes[-1].op_type}{len(nodes)}",
)
def test_what_has_no_layer_is_named(nodes: list[onnx.NodeProto]) -> None:
    with pytest.raises(RuntimeUnavailableError, match=r"has no form for litert here: leave `litert` out of --against"):
        read_layers(model(*nodes, w=WEIGHTS, m=MATRIX), "litert")
