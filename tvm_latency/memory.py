"""Where the intermediate tensors of a network lie in one workspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALIGNMENT = 64  # bytes of a cache line, and of the widest vector


@dataclass(frozen=True)
class Lifetime:
    """A tensor of so many bytes, from the step that writes it to the last that reads it, both included."""

    size: int
    first: int
    last: int


def aligned(size: int) -> int:
    """The next multiple of a cache line."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def plan_memory(tensors: Sequence[Lifetime]) -> tuple[list[int], int]:
    """Byte offsets at which no two tensors that live at once overlap, and the bytes in all.

    Greedy by size (Pisarchyk and Lee 2020, "Efficient Memory Management for Deep Neural Net Inference"): from the
    largest to the smallest, each at the lowest offset that is free while it lives. Low offsets are used again and again
    and stay in the cache.
    """
    offsets = [0] * len(tensors)
    placed: list[int] = []
    for index in sorted(range(len(tensors)), key=lambda i: -tensors[i].size):
        tensor = tensors[index]
        taken = sorted(
            (offsets[other], offsets[other] + aligned(tensors[other].size))
            for other in placed
            if tensors[other].first <= tensor.last and tensor.first <= tensors[other].last
        )
        for start, end in taken:
            if offsets[index] + tensor.size <= start:
                break
            offsets[index] = max(offsets[index], end)
        placed.append(index)
    return offsets, max((offset + aligned(t.size) for offset, t in zip(offsets, tensors)), default=0)
