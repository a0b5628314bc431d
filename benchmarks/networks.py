"""The networks of the comparisons: the five published ones, and ResNet-50 as one that our kernels were not made for."""

from __future__ import annotations

from math import prod, sqrt
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, shape_inference

from pipeline.nets import resolve_net
from supernet.named import NAMED

PUBLISHED = ("mobilenet_v2", "mobilenet_v2@1.4", *(name for name in NAMED if name != "mobilenet_v2"))
RESNET = "resnet50"
OPSET = 18
# (channels within a block, blocks, stride of the first): table 1 of arXiv 1512.03385.
_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
_EXPANSION = 4
# Of the last convolution in a block, so that 16 residual blocks of random weights do not double the variance 16 times.
_LAST_SCALE = 0.25


def network_model(name: str) -> onnx.ModelProto:
    """A network by name, with random weights from a fixed seed."""
    return resnet50() if name == RESNET else resolve_net(name).model


def macs(model: onnx.ModelProto) -> int:
    """Multiply-accumulates of all convolutions and matrix products."""
    inferred = shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.value_info, *inferred.output)
    }
    weights = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    total = 0
    for node in inferred.node:
        if node.op_type == "Conv":
            total += prod(shapes[node.output[0]]) * prod(weights[node.input[1]][1:])
        elif node.op_type == "Gemm":
            total += shapes[node.output[0]][0] * prod(weights[node.input[1]])
    return total


def resnet50(seed: int = 0, resolution: int = 224, classes: int = 1000) -> onnx.ModelProto:
    """ResNet-50 with the stride in the 3x3 convolution (version 1.5), batch norm folded, He-scaled random weights."""
    graph = _Graph(seed)
    x = graph.conv("image", 3, 64, kernel=7, stride=2)
    x = graph.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for hidden, blocks, first_stride in _STAGES:
        for block in range(blocks):
            stride = first_stride if block == 0 else 1
            x = graph.bottleneck(x, channels, hidden, stride, project=block == 0)
            channels = hidden * _EXPANSION
    x = graph.node("Flatten", [graph.node("GlobalAveragePool", [x])], axis=1)
    weights = graph.weights((classes, channels), 1.0)
    x = graph.node("Gemm", [x, weights, graph.weights((classes,), 0.01)], transB=1)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            RESNET,
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, resolution, resolution])],
            [helper.make_tensor_value_info(x, TensorProto.FLOAT, [1, classes])],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=10,
    )
    onnx.checker.check_model(model)
    return model


class _Graph:
    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weights(self, shape: tuple[int, ...], scale: float) -> str:
        name = f"w{len(self.constants)}"
        deviation = scale * sqrt(2.0 / max(1, prod(shape[1:])))
        values = self.random.standard_normal(shape, dtype=np.float32) * np.float32(deviation)
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self,
        x: str,
        channels: int,
        out: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        relu: bool = True,
        scale: float = 1.0,
    ) -> str:
        weights = self.weights((out, channels, kernel, kernel), scale)
        y = self.node(
            "Conv",
            [x, weights, self.weights((out,), 0.01)],
            kernel_shape=[kernel, kernel],
            strides=[stride, stride],
            pads=[kernel // 2] * 4,
        )
        return self.node("Relu", [y]) if relu else y

    def bottleneck(self, x: str, channels: int, hidden: int, stride: int, *, project: bool) -> str:
        out = hidden * _EXPANSION
        y = self.conv(self.conv(x, channels, hidden), hidden, hidden, kernel=3, stride=stride)
        y = self.conv(y, hidden, out, relu=False, scale=_LAST_SCALE)
        shortcut = self.conv(x, channels, out, stride=stride, relu=False) if project else x
        return self.node("Relu", [self.node("Add", [y, shortcut])])
