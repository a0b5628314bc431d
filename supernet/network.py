"""Network: an Architecture as a torch module, and the layers that the supernet shares with it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from supernet.architecture import Architecture
from tvm_latency.opspec import OpSpec

# The published networks were trained with these (arXiv 1812.00332, released configurations).
BN_MOMENTUM = 0.1
BN_EPS = 1e-3
CLASSIFIER_STD = 0.01


class ConvBN(nn.Sequential):
    """Convolution [B, C, H, W] -> [B, N, ceil(H / stride), ceil(W / stride)], batch norm, ReLU6 if `activation`.

    Without `running_statistics` batch norm always takes those of the batch, as a supernet needs.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        groups: int = 1,
        activation: bool = True,
        running_statistics: bool = True,
    ) -> None:
        norm = nn.BatchNorm2d(out_channels, BN_EPS, BN_MOMENTUM, track_running_stats=running_statistics)
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False),
            norm,
            *([nn.ReLU6(inplace=True)] if activation else []),
        )


class MBConv(nn.Module):
    """[1x1 expand], depthwise, 1x1 project; adds its input where `op.residual`.

    [B, in, H, W] -> [B, out, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, op: OpSpec, *, running_statistics: bool = True) -> None:
        super().__init__()
        hidden = op.hidden_channels
        expand = [ConvBN(op.in_channels, hidden, running_statistics=running_statistics)] if op.expand > 1 else []
        self.layers = nn.Sequential(
            *expand,
            ConvBN(hidden, hidden, op.kernel, op.stride, groups=hidden, running_statistics=running_statistics),
            ConvBN(hidden, op.out_channels, activation=False, running_statistics=running_statistics),
        )
        self.op = op

    def forward(self, x: Tensor) -> Tensor:
        """The block's output."""
        output = cast(Tensor, self.layers(x))
        return x + output if self.op.residual else output


class GlobalMeanPool(nn.Module):
    """[B, C, H, W] -> [B, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The mean over height and width."""
        return x.mean((2, 3))


def build_layer(op: OpSpec, *, running_statistics: bool = True) -> nn.Module:
    """The module of one operator, with untrained weights."""
    if op.kind == "conv":
        return ConvBN(op.in_channels, op.out_channels, op.kernel, op.stride, running_statistics=running_statistics)
    if op.kind == "mbconv":
        return MBConv(op, running_statistics=running_statistics)
    return GlobalMeanPool() if op.kind == "pool" else nn.Linear(op.in_channels, op.out_channels)


def initialise(network: nn.Module) -> None:
    """Draw the weights anew from torch's global generator: He normal by fan-out, as is usual for MobileNets."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            # torch.nn.init would count the channels of every group, and start depthwise weights far too small.
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1] / module.groups
            nn.init.normal_(module.weight, std=(2.0 / fan_out) ** 0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=CLASSIFIER_STD)
            nn.init.zeros_(module.bias)


class Network(nn.Module):
    """Images [B, 3, R, R] float32 -> logits [B, classes]: stem, blocks, 1x1 head, mean pool, dropout, classifier."""

    def __init__(self, ops: Sequence[OpSpec], dropout: float = 0.0) -> None:
        super().__init__()
        layers = [build_layer(op) for op in ops]
        self.features = nn.Sequential(*layers[:-1])
        self.dropout = nn.Dropout(dropout)
        self.classifier = layers[-1]

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return cast(Tensor, self.classifier(self.dropout(self.features(images))))


def build_network(arch: Architecture, dropout: float = 0.0) -> Network:
    """The network of `arch`, channels-last, its weights drawn from torch's global generator."""
    network = Network(arch.op_specs(), dropout)
    initialise(network)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
