"""Export: a trained network as an ONNX model, batch norm folded in."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from supernet.architecture import Architecture
from supernet.files import write_atomically
from supernet.network import ConvBN, Network

OPSET = 20


def fold_batch_norm(network: Network) -> Network:
    """A copy for inference whose convolutions hold their batch norm as weight and bias."""
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if isinstance(module, ConvBN):
            module[0] = fuse_conv_bn_eval(cast(nn.Conv2d, module[0]), cast(nn.BatchNorm2d, module[1]))
            del module[1]
    return folded


def to_onnx(network: Network, arch: Architecture, batch: int = 1) -> onnx.ModelProto:
    """The model: input "image" float32 [batch, 3, R, R], output "logits" [batch, classes], opset 20.

    Conv, Clip, Add, ReduceMean and Gemm only. Equal weights give equal bytes.
    """
    folded = fold_batch_norm(network).cpu()
    image = torch.zeros(batch, 3, arch.resolution, arch.resolution)
    with _quiet():
        program = torch.onnx.export(
            folded,
            (image,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    model: onnx.ModelProto = cast(torch.onnx.ONNXProgram, program).model_proto
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    return model


def export_onnx(network: Network, arch: Architecture, path: Path, batch: int = 1) -> None:
    """Write the model of `to_onnx` to `path`."""
    write_atomically(path, to_onnx(network, arch, batch).SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    """Take out the exporter's notes: they hold file names of this machine and Python's stack."""
    graph = model.graph
    parts = (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer)
    for part in parts:
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about itself off the console; errors still come through."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        log.setLevel(level)
