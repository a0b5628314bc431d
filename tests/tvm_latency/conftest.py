"""Models as text, for tests that need a graph of a certain form, and a small network."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec


def model_of(text: str, **constants: np.ndarray | tuple[int, ...]) -> onnx.ModelProto:
    """`(float[1,4] x) => (float[1,4] y) { y = Relu (x) }` as a model; a constant is an array, or the shape of one."""
    graph = parser.parse_graph(f"g {text}")
    random = np.random.default_rng(1)
    for name, value in constants.items():
        # Of variance 2 / reduction, so that values keep their size through the layers.
        scale = np.sqrt(2 / max(1, int(np.prod(value[1:])))) if isinstance(value, tuple) else 1
        drawn = random.standard_normal(value) * scale if isinstance(value, tuple) else value
        array = drawn.astype(np.float32) if isinstance(value, tuple) else value
        graph.initializer.append(numpy_helper.from_array(array, name))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture(scope="session")
def parse_model() -> Callable[..., onnx.ModelProto]:
    return model_of


@pytest.fixture(scope="session")
def mobile_network() -> Callable[[int], onnx.ModelProto]:
    """A network for images of so many pixels a side, with one kernel of every kind."""

    def make(size: int) -> onnx.ModelProto:
        half = -(-size // 2)

        def block(i: int, o: int, **rest: int) -> OpSpec:
            return OpSpec(kind="mbconv", height=half, width=half, in_channels=i, out_channels=o, kernel=3, **rest)

        return network_graph(
            [
                OpSpec(kind="conv", height=size, width=size, in_channels=3, out_channels=8, kernel=3, stride=2),
                block(8, 12, expand=3),
                block(12, 12, expand=6),
                OpSpec(kind="pool", height=half, width=half, in_channels=12, out_channels=12),
                OpSpec(kind="linear", height=1, width=1, in_channels=12, out_channels=10),
            ]
        )

    return make
