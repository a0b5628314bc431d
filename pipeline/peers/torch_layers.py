"""Layers as a torch module, compiled by Inductor."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._inductor import config as inductor

from pipeline.agreement import Images
from pipeline.peers.layers import Layer, LayerGraph


class LayerModule(nn.Module):
    """A graph of layers on images [B, C, H, W]."""

    def __init__(self, graph: LayerGraph) -> None:
        super().__init__()
        self.graph = graph
        self.parts = nn.ModuleList(_module(layer) for layer in graph.layers)

    def forward(self, image: Tensor) -> Tensor:
        """What the graph answers."""
        values = {self.graph.input: image}
        for layer, part in zip(self.graph.layers, self.parts, strict=True):
            values[layer.output] = part(*(values[name] for name in layer.inputs))
        return values[self.graph.output]


class _Add(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class _Clipped(nn.Module):
    def __init__(self, core: nn.Module, clip: tuple[float, float]) -> None:
        super().__init__()
        self.core = core
        # Inductor fuses these into the convolution before; it would not know a clip by other names.
        self.bounds = nn.ReLU() if clip == (0.0, np.inf) else nn.Hardtanh(*clip)

    def forward(self, *inputs: Tensor) -> Tensor:
        return cast(Tensor, self.bounds(self.core(*inputs)))


def _module(layer: Layer) -> nn.Module:
    core = _core(layer)
    return core if layer.clip is None else _Clipped(core, layer.clip)


def _core(layer: Layer) -> nn.Module:
    if layer.kind == "add":
        return _Add()
    if layer.kind == "mean":
        return _Mean()
    if layer.kind == "max_pool":
        return nn.MaxPool2d(layer.kernel, layer.stride, layer.padding)
    assert layer.weights is not None
    assert layer.bias is not None
    made: nn.Conv2d | nn.Linear
    out_channels, in_channels = layer.weights.shape[:2]
    if layer.kind == "conv":
        made = nn.Conv2d(
            in_channels * layer.groups, out_channels, layer.kernel, layer.stride, layer.padding, groups=layer.groups
        )
    else:
        made = nn.Linear(in_channels, out_channels)
    state = {"weight": torch.tensor(layer.weights), "bias": torch.tensor(layer.bias)}
    made.load_state_dict(state)
    return made


def bind_compiled(
    graph: LayerGraph, threads: int, image: Images
) -> tuple[Callable[[], object], Callable[[], NDArray[np.float32]]]:
    """The graph compiled for timing: one inference, and one that answers the output.

    Sets the number of threads of this process.
    """
    torch.set_num_threads(threads)
    module = LayerModule(graph).eval().requires_grad_(False)
    module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.from_numpy(image).to(memory_format=torch.channels_last)

    compiled: Callable[[Tensor], Tensor] = torch.compile(module)

    @torch.inference_mode()
    def run() -> Tensor:
        return compiled(x)

    # It is compiled when it is first called. `freezing` as an option of torch.compile comes too late to pack weights.
    # No workers: those that wait for more to compile would share the cores with what is timed.
    with inductor.patch(freezing=True, compile_threads=1):
        run()
    return run, lambda: run().numpy()
