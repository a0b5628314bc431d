"""Kernel kinds: each answers a scheduled function for a matched operator, or None. Order is the policy."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

from targets.target import Target
from tvm_latency.schedules.dense_conv import dense_conv
from tvm_latency.schedules.depthwise import depthwise
from tvm_latency.schedules.inverted_residual import inverted_residual
from tvm_latency.schedules.kernel import Kernel, Spec
from tvm_latency.schedules.mean_pool import mean_pool
from tvm_latency.schedules.pairs import paired_pointwise
from tvm_latency.schedules.pointwise import pointwise
from tvm_latency.schedules.tiles import Tile

# Written into every measurement and manifest: raise it whenever other code comes out of a schedule, or an operator is
# built or timed in another way. A golden test notices the former.
SCHEDULE_VERSION = 4


class Kind(Protocol):
    """Schedules an operator, or answers None where it is not of its kind."""

    def __call__(self, spec: Spec, target: Target, tile: Tile | None = None) -> Kernel | None:
        """The kernel with that tile, one of `Kernel.tiles`; with the analytic choice where none is given."""
        ...


CPU_KINDS: tuple[Kind, ...] = (inverted_residual, paired_pointwise, pointwise, depthwise, dense_conv, mean_pool)


@lru_cache(maxsize=4096)
def schedule_kernel(spec: Spec, target: Target, tile: Tile | None = None) -> Kernel | None:
    """The first kind that takes this operator schedules it; None where no kind does.

    Without `tile` it is the one that was tuned for the target, and else the analytic choice. Remembered: the blocks of
    a network, and the networks of a space, share most of their kernels.
    """
    for kind in CPU_KINDS:
        if (kernel := kind(spec, target, tile)) is not None:
            tuned = target.tuned_tiles.get(kernel.name)
            chosen = next((t for t in kernel.tiles if t.text == tuned), None) if tile is None else None
            return kernel if chosen is None else kind(spec, target, chosen)
    return None
