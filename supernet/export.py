"""Export: a trained network as an ONNX model, batch norm folded in."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from supernet.architecture import Architecture
from supernet.files import write_atomically
from supernet.network import ConvBN, Network
from tvm_latency.onnx_graph import network_graph


def fold_batch_norm(network: Network) -> Network:
    """A copy for inference whose convolutions hold their batch norm as weight and bias."""
    folded = copy.deepcopy(network).eval()
    for module in folded.modules():
        if isinstance(module, ConvBN):
            module[0] = fuse_conv_bn_eval(cast(nn.Conv2d, module[0]), cast(nn.BatchNorm2d, module[1]))
            del module[1]
    return folded


def to_onnx(network: Network, arch: Architecture, batch: int = 1) -> onnx.ModelProto:
    """The model: input "image" float32 [batch, 3, R, R], output "logits" [batch, classes].

    Conv, Clip, Add, GlobalAveragePool, Flatten and Gemm only. Equal weights give equal bytes. It is written as
    candidates are: PyTorch's exporter takes ten seconds to find out what an architecture says.
    """
    values = _weights_and_biases(fold_batch_norm(network).cpu())

    def next_value(shape: tuple[int, ...]) -> NDArray[np.float32]:
        value = next(values)
        assert value.shape == shape, "a network is not that of its architecture"
        return value

    return network_graph([replace(op, batch=batch) for op in arch.op_specs()], next_value)


def _weights_and_biases(folded: Network) -> Iterator[NDArray[np.float32]]:
    """In the order in which they are used."""
    for module in folded.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            for value in (module.weight, module.bias):
                yield np.ascontiguousarray(cast(Tensor, value).detach().numpy())


def export_onnx(network: Network, arch: Architecture, path: Path, batch: int = 1) -> None:
    """Write the model of `to_onnx` to `path`."""
    write_atomically(path, to_onnx(network, arch, batch).SerializeToString(deterministic=True))
