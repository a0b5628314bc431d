"""OpSpecs as ONNX graphs: candidates with random weights, and networks with those that were trained."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tvm_latency.opspec import PLANAR_CHANNELS, OpSpec

OPSET = 18


Values = Callable[[tuple[int, ...]], NDArray[np.float32]]
"""Weights of that shape: those of a convolution OIHW, of a linear layer [out, in], and after each its bias [out]."""


def random_values(seed: int) -> Values:
    """He-scaled normal weights from a seed."""
    random = np.random.default_rng(seed)

    def values(shape: tuple[int, ...]) -> NDArray[np.float32]:
        return (random.standard_normal(shape) * _he_scale(shape)).astype(np.float32)

    return values


def random_signs(seed: int) -> Values:
    """He-scaled weights that are all of one size, with random signs: packed, they take a thirtieth."""
    random = np.random.default_rng(seed)

    def values(shape: tuple[int, ...]) -> NDArray[np.float32]:
        scale = _he_scale(shape)
        return ((2 * random.integers(0, 2, shape) - 1) * scale).astype(np.float32)

    return values


def _he_scale(shape: tuple[int, ...]) -> float:
    return math.sqrt(2.0 / max(1, math.prod(shape[1:])))


class _Graph:
    """Collects nodes and weights; `x` is the name of the tensor that the next operator reads."""

    def __init__(self, values: Values) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.values = values
        self.x = "image"
        self.clip = [self._constant("zero", np.float32(0)), self._constant("six", np.float32(6))]

    def _constant(self, name: str, value: np.ndarray | np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def _weights(self, name: str, *shape: int) -> str:
        return self._constant(name, self.values(shape))

    def emit(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.x, *inputs], [name], **attributes))
        self.x = name
        return name

    def conv(
        self, channels: int, out: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu6: bool = True
    ) -> None:
        i = len(self.nodes)
        self.emit(
            "Conv",
            self._weights(f"w{i}", out, channels // groups, kernel, kernel),
            self._weights(f"b{i}", out),
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
            group=groups,
        )
        if relu6:
            self.emit("Clip", *self.clip)

    def op(self, op: OpSpec) -> None:
        if op.kind == "conv":
            self.conv(op.in_channels, op.out_channels, op.kernel, op.stride)
        elif op.kind == "depthwise":
            self.conv(op.in_channels, op.in_channels, op.kernel, op.stride, groups=op.in_channels)
        elif op.kind == "mbconv":
            before, hidden = self.x, op.hidden_channels
            if op.expands:
                self.conv(op.in_channels, hidden)
            self.conv(hidden, hidden, op.kernel, op.stride, groups=hidden)
            self.conv(hidden, op.out_channels, relu6=False)
            if op.residual:
                self.emit("Add", before)
        elif op.kind == "pool":
            self.emit("GlobalAveragePool")
            self.emit("Flatten", axis=1)
        else:
            i = len(self.nodes)
            weights = self._weights(f"w{i}", op.out_channels, op.in_channels)
            self.emit("Gemm", weights, self._weights(f"b{i}", op.out_channels), transB=1)


def input_shape(op: OpSpec) -> tuple[int, ...]:
    """Shape of what a model that begins with `op` reads.

    An image stands in planes, NCHW. What another operator made stands pixel by pixel, NHWC, as it does inside a
    network: so an operator measured alone pays for no change of layout. Before a linear layer it is [batch, channels].
    """
    if op.kind == "linear":
        return op.batch, op.in_channels
    if _reads_image(op):
        return op.batch, op.in_channels, op.height, op.width
    return op.batch, op.height, op.width, op.in_channels


def _reads_image(op: OpSpec) -> bool:
    return op.kind == "conv" and op.kernel > 1 and op.in_channels < PLANAR_CHANNELS


def with_batch(model: onnx.ModelProto, batch: int) -> onnx.ModelProto:
    """A model that `network_graph` made, for so many images at once: no operator of it says how many there are."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for value in (changed.graph.input[0], changed.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = batch
    return changed


def network_graph(ops: Sequence[OpSpec], values: Values | None = None) -> onnx.ModelProto:
    """The operators in sequence as a model: input `image` of `input_shape`, output `logits`.

    values: asked for weights in the order of the operators, and of expand, depthwise and project within a block; None
    for random ones, always the same.

    A network that ends in the middle answers NHWC, for the same reason. The model is float32; weights are stored in
    another type by compiling it so, as `tvm_latency.build.compile_ops` does.

    Raises:
        ValueError: operators with different types of weights, of which one would be measured under a false key.
    """
    if other := [op.key for op in ops if op.dtype != ops[0].dtype]:
        raise ValueError(f"{other[0]} and {ops[0].key}: all weights of a network are stored in one type.")
    graph, first, last = _Graph(values or random_values(0)), ops[0], ops[-1]
    if first.kind != "linear" and not _reads_image(first):
        graph.emit("Transpose", perm=[0, 3, 1, 2])
    for op in ops:
        graph.op(op)
    out_shape = [last.batch, last.out_channels]
    if last.kind not in ("pool", "linear"):
        graph.emit("Transpose", perm=[0, 2, 3, 1])
        out_shape[1:1] = [last.out_height, last.out_width]
    graph.nodes[-1].output[0] = "logits"
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "netlathe",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, input_shape(first))],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, out_shape)],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model
