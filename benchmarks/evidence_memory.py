"""What a step of a search takes in memory at its peak, by the number of candidates.

python -m benchmarks.evidence_memory [--space cifar] [--batch 128]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from supernet.network import build_network
from supernet.presets import preset
from supernet.space import SearchSpace
from supernet.supernet import SuperNet

# Candidates of a block that may be skipped: 2, 3, 4 and 7.
CHOICES = (((3,), (6,)), ((3, 5), (6,)), ((3, 5, 7), (6,)), ((3, 5, 7), (3, 6)))


def memory_by_candidates(space: SearchSpace, batch: int) -> list[dict[str, Any]]:
    """One row for each number of candidates of a block: megabytes at the peak of a step.

    `largest` is a training step of the widest network. Of the supernet `recompute` and `two_path` are the larger of two
    steps along the same path: one of the weights, and one of the alphas, in which the other candidates (or the other
    one of each pair) run again in backward. `all_paths` is an alpha step that keeps every candidate's activations, as a
    softmax mixture does. All have weights and momenta in them, the supernet those of every candidate: `weights`.
    """
    images = torch.randn(batch, 3, space.resolution, space.resolution)
    labels = torch.arange(batch) % space.classes
    parts = [replace(space, kernels=kernels, expands=expands) for kernels, expands in CHOICES]
    return [_row(part, images, labels) for part in parts]


def _row(space: SearchSpace, images: Tensor, labels: Tensor) -> dict[str, Any]:
    supernet = SuperNet(space)
    # The widest candidates, the last convolutions of each block, make the largest of all networks.
    widest = len(space.kernels) * len(space.expands) - 1
    path = [widest] * len(space.blocks)
    # Beside the next widest; where there is no other convolution, beside the skip.
    pairs = [[widest - 1, widest] if widest else list(range(len(block.candidates))) for block in space.blocks]
    largest = build_network(space.architecture([block.candidates[widest] for block in space.blocks]))
    gates = [torch.full((len(block.candidates),), 1.0, requires_grad=True) for block in space.blocks]

    def step(module: nn.Module, forward: Callable[[], Tensor], leaves: Sequence[Tensor]) -> float:
        def work() -> Any:
            return torch.autograd.grad(functional.cross_entropy(forward(), labels), leaves, allow_unused=True)

        return _held(module) + _peak(work)

    along = step(supernet, lambda: supernet(images, path), list(supernet.parameters()))

    return {
        "candidates": max(len(block.candidates) for block in space.blocks),
        "largest_mb": step(largest, lambda: largest(images), list(largest.parameters())),
        "recompute_mb": max(along, step(supernet, lambda: supernet(images, path, gates), gates)),
        "two_path_mb": max(along, step(supernet, lambda: supernet(images, path, gates, pairs), gates)),
        "all_paths_mb": step(supernet, lambda: _mixture(supernet, images, gates), gates),
        "weights_mb": _held(supernet),
    }


def _mixture(supernet: SuperNet, images: Tensor, gates: Sequence[Tensor]) -> Tensor:
    x = supernet.stem(images)
    for block, gate in zip(supernet.blocks, gates):
        x = sum(gate[k] * candidate(x) for k, candidate in enumerate(block.candidates))  # type: ignore[arg-type]
    return supernet.head(x)  # type: ignore[no-any-return]


def _held(module: nn.Module) -> float:
    """Megabytes of weights and of their momenta."""
    return 2e-6 * sum(parameter.nbytes for parameter in module.parameters())


def _peak(work: Callable[[], Any]) -> float:
    """Megabytes that `work` has allocated and not freed, when they are most."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        result = work()
    assert watched.profiler is not None
    del result
    found = [event for event in watched.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(found, key=lambda event: event.start_ns())]
    return 1e-6 * float(max(accumulate(changes)))


def main() -> None:
    """Print a line for each number of candidates."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", default="cifar")
    parser.add_argument("--batch", type=int, default=128)
    options = parser.parse_args()
    for row in memory_by_candidates(preset(options.space), options.batch):
        print("  ".join(f"{name} {value:.0f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
