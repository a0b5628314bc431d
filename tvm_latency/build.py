"""Compile a lowered model into a shared library that TVM's runtime loads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tvm
from tvm.tirx.compilation_pipeline import register_tir_pipeline
from tvm.tirx.transform import SkipAssert

from targets.target import Target
from targets.toolchain import find_toolchain
from tvm_latency.lower import Lowered, compiler_errors, lower
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec, WeightType
from tvm_latency.single_call import NETWORK


@dataclass(frozen=True)
class Compiled:
    """A compiled network. `main` of the executable takes and answers float32 tensors in the model's own layout."""

    executable: Any
    target: Target
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...]

    def export(self, path: Path) -> Path:
        """Link everything, weights included, into one shared library.

        Raises:
            ToolchainError: no linker, or it failed.
        """
        self.executable.export_library(str(path), fcompile=find_toolchain(self.target))
        return path


@tvm.transform.module_pass(opt_level=0, name="TrustNetwork")
def _trust_network(module: Any, _: Any) -> Any:
    """Drop what checks a kernel's arguments where only `network` calls it, whose own arguments are checked."""
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
    attributes = tvm.target.Target(target.tvm_attributes())
    # LLVM finds common subexpressions itself; TVM's search takes a tenth of the compile time.
    context = tvm.transform.PassContext.current()
    options = tvm.transform.PassContext(context.opt_level, config={**context.config, "tirx.disable_cse_tir": True})
    with compiler_errors("compiled"), options:
        executable = tvm.compile(lowered.module, attributes, relax_pipeline="default_build", tir_pipeline="netlathe")
    return Compiled(executable, target, lowered.kernels, lowered.fallbacks)


def compile_ops(ops: Sequence[OpSpec], target: Target) -> Compiled:
    """Compile operators in sequence, with random weights that are stored as the operators say.

    Raises:
        LoweringError: see `compile_onnx`.
        ValueError: the operators do not agree on that.
    """
    return compile_onnx(network_graph(ops), target, ops[0].dtype)
