"""A compiled network, for whatever kind of machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import onnx

from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.gpu_network import compile_for_gpu
from tvm_latency.lower import Lowered
from tvm_latency.network_plan import NetworkPlan
from tvm_latency.opspec import WeightType


class CompiledNetwork(Protocol):
    """What `tvm_latency.build` makes for CPUs, and `tvm_latency.gpu_network` for GPUs."""

    @property
    def plan(self) -> NetworkPlan | None:
        """Which kernels run one after the other; None where there is more to the network."""
        ...

    @property
    def target(self) -> Target:
        """What it was compiled for."""
        ...

    @property
    def kernels(self) -> tuple[str, ...]:
        """The names of our functions."""
        ...

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """The names of functions that none of our kernel kinds covers."""
        ...

    def export(self, path: Path) -> Path:
        """Link everything, weights included, into one shared library for TVM's runtime."""
        ...


def compile_network(
    model: onnx.ModelProto,
    target: Target,
    weights: WeightType = "float32",
    finish: Callable[[Lowered], Lowered] | None = None,
) -> CompiledNetwork:
    """Lower and compile; see `compile_onnx` and `compile_for_gpu`.

    Raises:
        LoweringError, ToolchainError: see there.
    """
    if target.kind == "cuda":
        return compile_for_gpu(model, target, weights)
    return compile_onnx(model, target, weights, finish)
