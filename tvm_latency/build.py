"""Compile a lowered model into a shared library that TVM's runtime loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import tvm
from tvm.tirx.compilation_pipeline import register_tir_pipeline
from tvm.tirx.transform import SkipAssert

from targets.host import available_cpus
from targets.target import Target
from targets.toolchain import find_toolchain
from tvm_latency.kernel_code import OPTIONS, KernelCode, kernels_apart
from tvm_latency.loaded import load_main
from tvm_latency.lower import Lowered, compiler_errors, lower
from tvm_latency.network_plan import NetworkPlan
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec, WeightType
from tvm_latency.single_call import NETWORK


@dataclass(frozen=True)
class Compiled:
    """A compiled network. `main` of the executable takes and answers float32 tensors in the model's own layout.

    code: of the kernels that it calls; it runs once all is linked. plan: in which order, None where there is more to a
        network than kernels, and no code is.
    """

    executable: Any
    code: tuple[KernelCode, ...]
    plan: NetworkPlan | None
    target: Target
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...]

    def export(self, path: Path) -> Path:
        """Link everything, weights included, into one shared library.

        Raises:
            ToolchainError: no linker, or it failed.
        """
        with TemporaryDirectory() as folder:
            files = [str(file) for file in self.write_objects(Path(folder))]
            self.executable.export_library(str(path), fcompile=find_toolchain(self.target), addons=files)
        return path

    @property
    def scratch_bytes(self) -> int:
        """The most that a kernel allocates, on each thread."""
        return max((kernel.scratch_bytes for kernel in self.code), default=0)

    def write_objects(self, folder: Path) -> list[Path]:
        """An object file for each kernel."""
        files = [folder / f"kernel{number}.o" for number in range(len(self.code))]
        for file, kernel in zip(files, self.code, strict=True):
            file.write_bytes(kernel.object)
        return files

    def load(self) -> Callable[..., Any]:
        """`main` in this process, a function of TVM's tensors.

        Raises:
            ToolchainError: see `export`.
        """
        with TemporaryDirectory() as folder:
            return load_main(self.export(Path(folder) / "network.so"))


@tvm.transform.module_pass(opt_level=0, name="TrustNetwork")
def _trust_network(module: Any, _: Any) -> Any:
    """Drop what checks a function's arguments where only `network` calls it, whose own arguments are checked."""
    functions = {var: f for var, f in module.functions_items() if var.name_hint != NETWORK}
    if len(functions) < len(module.functions):
        module.update(SkipAssert()(tvm.IRModule(functions, attrs=module.attrs)))
    return module


def _pipeline() -> tuple[Any, Any, Any]:
    lower_functions, *finalize = tvm.tirx.get_tir_pipeline("default")
    return tvm.transform.Sequential([lower_functions, _trust_network]), *finalize


register_tir_pipeline("netlathe", _pipeline)


def compile_onnx(
    model: onnx.ModelProto,
    target: Target,
    weights: WeightType = "float32",
    finish: Callable[[Lowered], Lowered] | None = None,
) -> Compiled:
    """Lower and compile; the kernels' weights are stored as `weights`, and `finish` may replace functions in between.

    Raises:
        LoweringError: see `tvm_latency.lower.lower`; or TVM cannot compile what it lowered.
    """
    lowered = lower(model, target, weights)
    if finish is not None:
        lowered = finish(lowered)
    context = tvm.transform.PassContext.current()
    options = tvm.transform.PassContext(context.opt_level, config={**context.config, **OPTIONS})
    # TVM and LLVM leave Python's lock while they work.
    with compiler_errors("compiled"), ThreadPoolExecutor(len(available_cpus())) as pool:
        module, code = kernels_apart(lowered.module, target, pool)
        try:
            with options:
                attributes = tvm.target.Target(target.tvm_attributes())
                executable = tvm.compile(module, attributes, relax_pipeline="default_build", tir_pipeline="netlathe")
            kernel_code = tuple(kernel.result() for kernel in code)
        except BaseException:
            # Nobody waits for what is not begun.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Compiled(executable, kernel_code, lowered.plan, target, lowered.kernels, lowered.fallbacks)


def compile_ops(ops: Sequence[OpSpec], target: Target) -> Compiled:
    """Compile operators in sequence, with random weights that are stored as the operators say.

    Raises:
        LoweringError: see `compile_onnx`.
        ValueError: the operators do not agree on that.
    """
    return compile_onnx(network_graph(ops), target, ops[0].dtype)
