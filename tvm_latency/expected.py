"""What operators should answer, by NumPy: a compiled artefact that computes something else is not worth timing.

Only what `onnx_graph.network_graph` emits is known here: no second runtime is needed to calibrate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

Array = NDArray[np.float32]


def expected_output(model: onnx.ModelProto, image: Array) -> Array:
    """The output of a model that `network_graph` made for one input.

    Raises:
        KeyError: the model has an operator that `network_graph` never emits.
    """
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    values[model.graph.input[0].name] = image
    for node in model.graph.node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
    output: Array = values[model.graph.output[0].name]
    return output


def _conv(x: Array, weights: Array, bias: Array, *, strides: list[int], pads: list[int], group: int, **_: Any) -> Array:
    """x: [batch, in, height, width]; weights: [out, in / group, k, k]. One tap of the kernel at a time."""
    kernel, stride, pad = weights.shape[2], strides[0], pads[0]
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = (-(-size // stride) for size in x.shape[2:])
    out = np.zeros((x.shape[0], weights.shape[0], height, width), np.float32)
    out += bias[:, None, None]
    for row in range(kernel):
        for column in range(kernel):
            seen = padded[:, :, row : row + stride * height : stride, column : column + stride * width : stride]
            seen, tap = seen[:, :, :height, :width], weights[:, :, row, column]
            if group == 1:
                out += np.einsum("oi,bihw->bohw", tap, seen, optimize=True)
            else:
                out += tap[:, 0, None, None] * seen
    return out


def _transpose(x: Array, *, perm: list[int]) -> Array:
    return np.ascontiguousarray(x.transpose(perm))


def _gemm(x: Array, weights: Array, bias: Array, **_: Any) -> Array:
    product: Array = x @ weights.T + bias
    return product


_OPERATORS: dict[str, Callable[..., Array]] = {
    "Conv": _conv,
    "Clip": np.clip,
    "Add": lambda a, b: a + b,
    "GlobalAveragePool": lambda x: x.mean(axis=(2, 3), keepdims=True),
    "Flatten": lambda x, axis: x.reshape(x.shape[0], -1),
    "Gemm": _gemm,
    "Transpose": _transpose,
}
