"""An ONNX model as a short list of layers, for runtimes that do not read ONNX."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from pipeline.peers.interface import RuntimeUnavailableError

FloatArray = NDArray[np.float32]
Kind = Literal["conv", "linear", "add", "mean", "max_pool"]


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator with the bounds its output is clipped to.

    weights: OIHW of a convolution, [out, in] of a linear layer; bias: [out].
    kernel, stride and padding are those of both directions; mean is that of all pixels, [B, C, H, W] -> [B, C].
    """

    kind: Kind
    inputs: tuple[str, ...]
    output: str
    weights: FloatArray | None = None
    bias: FloatArray | None = None
    kernel: int = 1
    stride: int = 1
    padding: int = 0
    groups: int = 1
    clip: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class LayerGraph:
    """Layers in an order in which they can run."""

    input: str
    output: str
    layers: tuple[Layer, ...]


def read_layers(model: onnx.ModelProto, runtime: str) -> LayerGraph:
    """The layers of a model; clips become part of the layer before them.

    runtime: what the layers are for, for the message.

    Raises:
        RuntimeUnavailableError: an operator, or a form of one, that has no layer.
    """
    return _Reader(model, runtime).read()


class _Reader:
    def __init__(self, model: onnx.ModelProto, runtime: str) -> None:
        self.graph = model.graph
        self.runtime = runtime
        self.constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self.readers = Counter(name for node in model.graph.node for name in node.input)
        self.layers: dict[str, Layer] = {}
        # Outputs of nodes that are no layers of their own -> the layer's.
        self.aliases: dict[str, str] = {}

    def read(self) -> LayerGraph:
        for node in self.graph.node:
            self._read_node(node)
        (source,) = (value.name for value in self.graph.input if value.name not in self.constants)
        output = self._name(self.graph.output[0].name)
        return LayerGraph(input=source, output=output, layers=tuple(self.layers.values()))

    def _read_node(self, node: onnx.NodeProto) -> None:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant" and "value" in attributes:
            self.constants[node.output[0]] = numpy_helper.to_array(attributes["value"])
        elif node.op_type in ("Identity", "Flatten"):
            self._pass(node)
        elif node.op_type in ("Clip", "Relu"):
            self._clip(node)
        else:
            layer = self._layer(node, attributes)
            self.layers[layer.output] = layer

    def _layer(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Layer:
        if node.op_type == "Conv":
            return self._conv(node, attributes)
        if node.op_type == "Gemm":
            return self._linear(node, attributes)
        if node.op_type == "MaxPool" and not attributes.get("ceil_mode"):
            return self._made(node, "max_pool", **self._window(node, attributes))
        if node.op_type == "Add" and not any(name in self.constants for name in node.input):
            return self._made(node, "add")
        if node.op_type == "GlobalAveragePool" or (
            node.op_type == "ReduceMean" and self._axes(node, attributes) in ([2, 3], [-2, -1], [-1, -2])
        ):
            return replace(self._made(node, "mean"), inputs=(self._name(node.input[0]),))
        raise self._unknown(node)

    def _made(self, node: onnx.NodeProto, kind: Kind, **fields: Any) -> Layer:
        inputs = tuple(self._name(name) for name in node.input if name not in self.constants)
        return Layer(kind=kind, inputs=inputs, output=node.output[0], **fields)

    def _conv(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Layer:
        weights = self._constant(node, 1)
        return self._made(
            node,
            "conv",
            weights=weights,
            bias=self._bias(node, len(weights)),
            groups=attributes.get("group", 1),
            **self._window(node, {"kernel_shape": weights.shape[2:], **attributes}),
        )

    def _linear(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> Layer:
        plain = (attributes.get("alpha", 1.0), attributes.get("beta", 1.0), attributes.get("transA", 0)) == (1, 1, 0)
        if not plain:
            raise self._unknown(node)
        weights = self._constant(node, 1)
        weights = weights if attributes.get("transB", 0) else np.ascontiguousarray(weights.T)
        return self._made(node, "linear", weights=weights, bias=self._bias(node, len(weights)))

    def _window(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> dict[str, int]:
        """Kernel, stride and padding, where they are the same on all sides."""
        kernel, strides = set(attributes["kernel_shape"]), set(attributes.get("strides", [1]))
        pads, dilations = set(attributes.get("pads", [0])), set(attributes.get("dilations", [1]))
        square = all(len(sizes) == 1 for sizes in (kernel, strides, pads)) and dilations == {1}
        if not square or attributes.get("auto_pad", b"NOTSET") != b"NOTSET":
            raise self._unknown(node)
        return {"kernel": kernel.pop(), "stride": strides.pop(), "padding": pads.pop()}

    def _clip(self, node: onnx.NodeProto) -> None:
        """Into the layer before, whose output nobody else reads."""
        source = self._name(node.input[0])
        layer = self.layers.get(source)
        if layer is None or layer.clip is not None or self.readers[node.input[0]] != 1:
            raise self._unknown(node)
        bounds = [float(self.constants[name]) if name else None for name in (*node.input[1:], "", "")[:2]]
        low, high = (0.0, None) if node.op_type == "Relu" else bounds
        clip = (-np.inf if low is None else low, np.inf if high is None else high)
        self.layers[source] = replace(layer, clip=clip)
        self.aliases[node.output[0]] = source

    def _pass(self, node: onnx.NodeProto) -> None:
        """Identity, also of a constant; Flatten where there is nothing to flatten: a mean has one pixel."""
        if node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
            return
        source = self._name(node.input[0])
        if node.op_type == "Flatten" and (source not in self.layers or self.layers[source].kind != "mean"):
            raise self._unknown(node)
        self.aliases[node.output[0]] = source

    def _axes(self, node: onnx.NodeProto, attributes: dict[str, Any]) -> list[int]:
        if len(node.input) > 1:
            return [int(axis) for axis in self.constants[node.input[1]]]
        return list(attributes.get("axes", []))

    def _name(self, name: str) -> str:
        return self.aliases.get(name, name)

    def _constant(self, node: onnx.NodeProto, index: int) -> FloatArray:
        if node.input[index] not in self.constants:
            raise self._unknown(node)
        return self.constants[node.input[index]].astype(np.float32)

    def _bias(self, node: onnx.NodeProto, channels: int) -> FloatArray:
        if len(node.input) < 3 or not node.input[2]:
            return np.zeros(channels, np.float32)
        return np.ascontiguousarray(np.broadcast_to(self._constant(node, 2).reshape(-1), (channels,)))

    def _unknown(self, node: onnx.NodeProto) -> RuntimeUnavailableError:
        return RuntimeUnavailableError(
            f"This {node.op_type} ({node.name or node.output[0]}) has no form for {self.runtime} here: "
            f"leave `{self.runtime}` out of --against."
        )
