"""Models as text, for tests that need a graph of a certain form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser


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
