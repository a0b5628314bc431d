"""Kernel kinds: each answers a scheduled function for a matched operator, or None. Order is the policy."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from targets.target import Target
from tvm_latency.schedules.dense_conv import dense_conv
from tvm_latency.schedules.depthwise import depthwise
from tvm_latency.schedules.gpu.dense_conv import dense_conv as gpu_dense_conv
from tvm_latency.schedules.gpu.depthwise import depthwise as gpu_depthwise
from tvm_latency.schedules.gpu.depthwise_product import depthwise_product
from tvm_latency.schedules.gpu.matrix_product import matrix_product
from tvm_latency.schedules.gpu.mean_pool import mean_pool as gpu_mean_pool
from tvm_latency.schedules.gpu.product import product as gpu_product
from tvm_latency.schedules.inverted_residual import inverted_residual
from tvm_latency.schedules.kernel import Kernel, Spec
from tvm_latency.schedules.mean_pool import mean_pool
from tvm_latency.schedules.pairs import paired_pointwise
from tvm_latency.schedules.pointwise import pointwise

# Written into every measurement and manifest: raise it whenever other code comes out of a schedule, or an operator is
# built or timed in another way. A golden test notices the former.
SCHEDULE_VERSION = 9
GPU_SCHEDULE_VERSION = 4

# Schedules an operator, or answers None where it is not of its kind.
Kind = Callable[[Spec, Target], Kernel | None]

CPU_KINDS: tuple[Kind, ...] = (inverted_residual, paired_pointwise, pointwise, depthwise, dense_conv, mean_pool)
GPU_KINDS: tuple[Kind, ...] = (
    depthwise_product,
    matrix_product,
    gpu_product,
    gpu_depthwise,
    gpu_dense_conv,
    gpu_mean_pool,
)


def schedule_version(target: Target) -> int:
    """That of the kernels for a kind of machine."""
    return GPU_SCHEDULE_VERSION if target.kind == "cuda" else SCHEDULE_VERSION


@lru_cache(maxsize=4096)
def schedule_kernel(spec: Spec, target: Target) -> Kernel | None:
    """The first kind that takes this operator schedules it; None where no kind does.

    Remembered: the blocks of a network, and the networks of a space, share most of their kernels.
    """
    for kind in GPU_KINDS if target.kind == "cuda" else CPU_KINDS:
        if (kernel := kind(spec, target)) is not None:
            return kernel
    return None
