"""Layers as a TensorFlow Lite flatbuffer, written with the schema that LiteRT's wheel brings.

No converter of those that exist fits beside TVM and PyTorch: litert-torch brings JAX, transformers and an older
pydantic, onnx2tf brings TensorFlow and an older NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from pipeline.peers.interface import RuntimeUnavailableError
from pipeline.peers.layers import Layer, LayerGraph

_FILE_IDENTIFIER, _SCHEMA_VERSION = b"TFL3", 3
_ACTIVATIONS = {
    None: schema.ActivationFunctionType.NONE,
    (0.0, np.inf): schema.ActivationFunctionType.RELU,
    (0.0, 6.0): schema.ActivationFunctionType.RELU6,
}


def to_tflite(graph: LayerGraph, image_shape: Sequence[int]) -> bytes:
    """The graph as a .tflite file: image [B, H, W, C] for one that reads [B, C, H, W] = `image_shape`.

    Raises:
        RuntimeUnavailableError: a layer that TensorFlow Lite has no operator for.
    """
    batch, channels, height, width = image_shape
    writer = _Writer()
    writer.tensor(graph.input, (batch, height, width, channels))
    for layer in graph.layers:
        writer.layer(layer)
    return writer.finish(graph)


class _Writer:
    def __init__(self) -> None:
        self.tensors: list[Any] = []
        # The first buffer is empty by convention: tensors without data share it.
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self.codes: list[int] = []
        self.indices: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        # Tensors in which nothing is below zero.
        self.positive: set[str] = set()

    def tensor(self, name: str, shape: Sequence[int], data: NDArray[Any] | None = None) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.shapeSignature = name.encode(), np.array(shape, np.int32), None
        made.type = schema.TensorType.FLOAT32 if data is None or data.dtype == np.float32 else schema.TensorType.INT32
        made.buffer = 0
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.indices[name], self.shapes[name] = len(self.tensors), tuple(shape)
        self.tensors.append(made)
        return self.indices[name]

    def constant(self, name: str, data: NDArray[Any]) -> int:
        return self.tensor(name, data.shape, data)

    def operator(
        self, code: int, inputs: Sequence[int], output: str, shape: Sequence[int], kind: str = "", options: Any = None
    ) -> None:
        """Append an operator; `kind` is the name of its options in the union of options."""
        made = schema.OperatorT()
        if code not in self.codes:
            self.codes.append(code)
        made.opcodeIndex = self.codes.index(code)
        made.inputs, made.outputs = list(inputs), [self.tensor(output, shape)]
        if kind:
            made.builtinOptionsType, made.builtinOptions = getattr(schema.BuiltinOptions, kind), options
        self.operators.append(made)

    def layer(self, layer: Layer) -> None:
        if layer.clip not in _ACTIVATIONS:
            raise RuntimeUnavailableError(
                f"TensorFlow Lite clips to [0, 6] or from 0, not to {list(layer.clip or ())}: "
                "leave `litert` out of --against."
            )
        getattr(self, f"_{layer.kind}")(layer)
        if layer.clip is not None:
            self.positive.add(layer.output)

    def _conv(self, layer: Layer) -> None:
        assert layer.weights is not None
        assert layer.bias is not None
        out_channels, in_channels = layer.weights.shape[:2]
        depthwise = layer.groups > 1 and in_channels == 1 and layer.groups == out_channels
        if layer.groups > 1 and not depthwise:
            raise RuntimeUnavailableError(
                f"A convolution of {layer.groups} groups has no form for litert here: leave `litert` out of --against."
            )
        source, padding, shape = self._window(layer)
        # OIHW -> [1, H, W, channels] if depthwise, else OHWI.
        packed = layer.weights.transpose((1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
        inputs = [
            source,
            self.constant(f"{layer.output}.weights", np.ascontiguousarray(packed)),
            self.constant(f"{layer.output}.bias", layer.bias),
        ]
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        options = getattr(schema, f"{kind}T")()
        options.padding, options.strideH, options.strideW = padding, layer.stride, layer.stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.fusedActivationFunction = _ACTIVATIONS[layer.clip]
        if depthwise:
            options.depthMultiplier = 1
        code = schema.BuiltinOperator.DEPTHWISE_CONV_2D if depthwise else schema.BuiltinOperator.CONV_2D
        self.operator(code, inputs, layer.output, (*shape, out_channels), kind, options)

    def _max_pool(self, layer: Layer) -> None:
        if layer.padding and layer.inputs[0] not in self.positive:
            raise RuntimeUnavailableError(
                "A padded maximum of what may be below zero has no form for litert here: "
                "leave `litert` out of --against."
            )
        source, padding, shape = self._window(layer)
        options = schema.Pool2DOptionsT()
        options.padding, options.strideH, options.strideW = padding, layer.stride, layer.stride
        options.filterHeight = options.filterWidth = layer.kernel
        options.fusedActivationFunction = _ACTIVATIONS[layer.clip]
        channels = self.shapes[layer.inputs[0]][3]
        code = schema.BuiltinOperator.MAX_POOL_2D
        self.operator(code, [source], layer.output, (*shape, channels), "Pool2DOptions", options)

    def _window(self, layer: Layer) -> tuple[int, int, tuple[int, int, int]]:
        """What a window slides over, the kind of padding, and [batch, height, width] of what comes out.

        `SAME` pads as the layer does where the stride is 1. Where it is larger, `SAME` may pad at the end alone: zeros
        are put around by an operator of their own, which XNNPACK takes into the convolution that follows.
        """
        name, pad = layer.inputs[0], layer.padding
        batch, height, width, channels = self.shapes[name]
        rows, columns = ((size + 2 * pad - layer.kernel) // layer.stride + 1 for size in (height, width))
        if layer.stride == 1 and 2 * pad == layer.kernel - 1:
            return self.indices[name], schema.Padding.SAME, (batch, rows, columns)
        if pad:
            padded = f"{layer.output}.padded"
            sides = self.constant(f"{padded}.sides", np.array([[0, 0], [pad, pad], [pad, pad], [0, 0]], np.int32))
            shape = (batch, height + 2 * pad, width + 2 * pad, channels)
            inputs = [self.indices[name], sides]
            self.operator(schema.BuiltinOperator.PAD, inputs, padded, shape, "PadOptions", schema.PadOptionsT())
            name = padded
        return self.indices[name], schema.Padding.VALID, (batch, rows, columns)

    def _add(self, layer: Layer) -> None:
        options = schema.AddOptionsT()
        options.fusedActivationFunction = _ACTIVATIONS[layer.clip]
        inputs, shape = [self.indices[name] for name in layer.inputs], self.shapes[layer.inputs[0]]
        self.operator(schema.BuiltinOperator.ADD, inputs, layer.output, shape, "AddOptions", options)

    def _mean(self, layer: Layer) -> None:
        name = layer.inputs[0]
        axes = self.constant(f"{layer.output}.axes", np.array([1, 2], np.int32))
        batch, _, _, channels = self.shapes[name]
        options = schema.ReducerOptionsT()
        options.keepDims = False
        inputs = [self.indices[name], axes]
        self.operator(schema.BuiltinOperator.MEAN, inputs, layer.output, (batch, channels), "ReducerOptions", options)

    def _linear(self, layer: Layer) -> None:
        assert layer.weights is not None
        assert layer.bias is not None
        inputs = [
            self.indices[layer.inputs[0]],
            self.constant(f"{layer.output}.weights", layer.weights),
            self.constant(f"{layer.output}.bias", layer.bias),
        ]
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = _ACTIVATIONS[layer.clip]
        shape = (self.shapes[layer.inputs[0]][0], len(layer.weights))
        code = schema.BuiltinOperator.FULLY_CONNECTED
        self.operator(code, inputs, layer.output, shape, "FullyConnectedOptions", options)

    def finish(self, graph: LayerGraph) -> bytes:
        subgraph = schema.SubGraphT()
        subgraph.tensors, subgraph.operators, subgraph.name = self.tensors, self.operators, b"main"
        subgraph.inputs, subgraph.outputs = [self.indices[graph.input]], [self.indices[graph.output]]
        model = schema.ModelT()
        model.version, model.description = _SCHEMA_VERSION, b"netlathe"
        model.subgraphs, model.buffers = [subgraph], self.buffers
        model.operatorCodes = [_code(code) for code in self.codes]
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=_FILE_IDENTIFIER)
        return bytes(builder.Output())


def _code(code: int) -> Any:
    made = schema.OperatorCodeT()
    # Codes below 127 stand in both fields: old readers know the byte only.
    made.builtinCode, made.deprecatedBuiltinCode, made.version = code, code, 1
    return made
