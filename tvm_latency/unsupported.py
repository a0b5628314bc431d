"""What ONNX allows, or its checker lets pass, and TVM's importer or code generator gets wrong: refused by name."""

from __future__ import annotations

import onnx

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


def unsupported(graph: onnx.GraphProto) -> str | None:
    """A sentence about the first operator or input that cannot be compiled; None where nothing is known to be wrong."""
    empty = {tensor.name for tensor in graph.initializer if 0 in tensor.dims}
    for value in graph.input:
        if any(size.HasField("dim_value") and size.dim_value == 0 for size in value.type.tensor_type.shape.dim):
            return f"Input {value.name!r} has a size of 0: there is nothing to compile."
    return next((sentence for node in graph.node if (sentence := _node(node, empty))), None)


def _node(node: onnx.NodeProto, empty: set[str]) -> str | None:
    attributes = {attribute.name: attribute for attribute in node.attribute}
    name = f"{node.op_type} {node.name!r}" if node.name else node.op_type
    if node.op_type == "ConvTranspose" and "output_shape" in attributes:
        return f"{name} asks for an output_shape, which is not supported. Export the model with pads in its place."
    if "pads" in attributes and node.op_type != "Pad" and min(attributes["pads"].ints, default=0) < 0:
        return f"{name} has negative padding, which ONNX does not allow. Export the model with a Slice before it."
    if node.op_type in _WEIGHTED and empty.intersection(node.input):
        return f"{name} has weights with a size of 0, which cannot be compiled. Export the model without it."
    return None
