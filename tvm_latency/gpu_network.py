"""A network for a GPU: the machine code of its kernels, and the plan of what they do."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm.s_tir import dlight

from targets.cuda_compiler import CudaCompiler, find_cuda_compiler
from targets.host import available_cpus
from targets.target import Target
from tvm_latency.code_store import cache_folder, kept
from tvm_latency.device_code import Launch, device_code
from tvm_latency.lower import LoweringError, compiler_errors, lower
from tvm_latency.network_plan import NetworkPlan
from tvm_latency.opspec import WeightType

# What all processes of a user keep of machine code, some 10 KiB for a kernel.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class GpuKernel:
    """Machine code as the driver loads it, and how its functions are launched, in order."""

    code: bytes
    launches: tuple[Launch, ...]


@dataclass(frozen=True)
class GpuNetwork:
    """A compiled network. code: by the names of the functions that the plan calls."""

    plan: NetworkPlan
    code: Mapping[str, GpuKernel]
    target: Target
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...]

    def export(self, path: Path) -> Path:
        """Link everything, weights included, into one shared library, whose `main` takes tensors of the GPU.

        Raises:
            StandaloneError: the network has not one float32 input and output.
            ToolchainError: no linker, or it failed.
        """
        from tvm_latency.standalone.gpu_library import write_gpu_library

        return write_gpu_library(self, path)


def compile_for_gpu(
    model: onnx.ModelProto,
    target: Target,
    weights: WeightType = "float32",
    compiler: CudaCompiler | None = None,
) -> GpuNetwork:
    """Lower and compile; what no kernel kind of ours covers has the default schedule of TVM's DLight for GPUs.

    compiler: None for the one that is found.

    Raises:
        LoweringError: see `tvm_latency.lower.lower`; or the network is more than kernels one after the other.
        ToolchainError: there is no compiler of CUDA here, or it refuses.
    """
    compiler = compiler or find_cuda_compiler()
    lowered = lower(model, target, weights)
    if lowered.plan is None:
        raise LoweringError(
            "The network is more than kernels one after the other (a sort, several outputs), which is not compiled for "
            "GPUs. Export the model without that part."
        )
    called = list(dict.fromkeys(step.kernel for step in lowered.plan.steps))
    with compiler_errors("compiled"), ThreadPoolExecutor(len(available_cpus())) as pool:
        module = _scheduled(lowered.module, target)
        functions = {var.name_hint: f for var, f in module.functions_items()}
        compiled = pool.map(partial(_kernel, functions, target, compiler), called)
        code = dict(zip(called, compiled, strict=True))
    return GpuNetwork(lowered.plan, code, target, lowered.kernels, lowered.fallbacks)


def _scheduled(module: Any, target: Target) -> Any:
    """Every function as a grid of threads."""
    rules = dlight.gpu.Matmul(), dlight.gpu.GEMV(), dlight.gpu.Reduction(), dlight.gpu.GeneralReduction()
    with tvm.target.Target(target.tvm_attributes()):
        return dlight.ApplyDefaultSchedule(*rules, dlight.gpu.Fallback())(module)


def _kernel(functions: Mapping[str, Any], target: Target, compiler: CudaCompiler, name: str) -> GpuKernel:
    source = device_code(functions[name], name, target)
    digest = blake2b(f"{compiler.facts} {target.mcpu} {source.text}".encode(), digest_size=20).hexdigest()
    code = kept(cache_folder("gpu-kernels"), digest, lambda: compiler.cubin(source.text, target.mcpu), KEPT_BYTES)
    return GpuKernel(code, source.launches)
