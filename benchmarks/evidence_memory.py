"""What a step of a search keeps in memory for its backward pass, by the number of candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from supernet.network import build_network
from supernet.space import SearchSpace
from supernet.supernet import SuperNet


def memory_by_candidates(space: SearchSpace, batch: int) -> list[dict[str, Any]]:
    """One row for each number of candidates of a block: megabytes of activations that autograd keeps.

    `largest` is a training step of the widest network; `binarised` an alpha step along the same path whose other
    candidates are run again in backward; `all paths` a step that keeps every candidate's activations, as a softmax
    mixture does.
    """
    images = torch.randn(batch, 3, space.resolution, space.resolution)
    labels = torch.arange(batch) % space.classes
    choices = (((3,), (6,)), ((3, 5), (6,)), ((3, 5, 7), (6,)), ((3, 5, 7), (3, 6)))
    parts = [replace(space, kernels=kernels, expands=expands) for kernels, expands in choices]
    return [_row(part, images, labels) for part in parts]


def _row(space: SearchSpace, images: Tensor, labels: Tensor) -> dict[str, Any]:
    supernet = SuperNet(space)
    # The widest candidates, the last convolutions of each block, make the largest of all networks.
    path = [len(space.kernels) * len(space.expands) - 1] * len(space.blocks)
    widest = build_network(space.architecture([b.candidates[k] for b, k in zip(space.blocks, path)]))
    gates = [torch.full((len(block.candidates),), 1.0, requires_grad=True) for block in space.blocks]
    return {
        "candidates": max(len(block.candidates) for block in space.blocks),
        "largest_mb": _kept(widest, lambda: widest(images), labels),
        "binarised_mb": _kept(supernet, lambda: supernet(images, path, gates), labels),
        "all_paths_mb": _kept(supernet, lambda: _mixture(supernet, images, gates), labels),
    }


def _mixture(supernet: SuperNet, images: Tensor, gates: Sequence[Tensor]) -> Tensor:
    x = supernet.stem(images)
    for block, gate in zip(supernet.blocks, gates):
        x = sum(gate[k] * candidate(x) for k, candidate in enumerate(block.candidates))  # type: ignore[arg-type]
    return supernet.head(x)  # type: ignore[no-any-return]


def _kept(module: torch.nn.Module, forward: Callable[[], Tensor], labels: Tensor) -> float:
    """Megabytes of distinct tensors, parameters apart, that one forward pass keeps."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    # The tensors themselves are kept, so that no address is used twice.
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if (address := tensor.untyped_storage().data_ptr()) not in own:
            kept[address] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        functional.cross_entropy(forward(), labels)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values()) / 1e6
