"""Many kernels in one shared library, each a function of its own: for comparing them with each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import tvm
from tvm import relax

from targets.target import Target
from targets.toolchain import find_toolchain
from tvm_latency.lower import compiler_errors
from tvm_latency.schedules.kernel import Kernel

Shapes = tuple[tuple[int, ...], ...]


def parameter_shapes(kernel: Kernel) -> Shapes:
    """The shapes of a kernel's parameters, inputs first and the output last."""
    return tuple(tuple(int(size) for size in parameter.ty.shape) for parameter in kernel.func.params)


def parameter_types(kernel: Kernel) -> tuple[str, ...]:
    """The types of a kernel's parameters in the same order: weights may be float16."""
    return tuple(str(parameter.ty.dtype) for parameter in kernel.func.params)


def build_kernels(kernels: Mapping[str, Kernel], target: Target, path: Path) -> Path:
    """A library with a function for each kernel, of its inputs, weights included, that answers its output.

    Raises:
        LoweringError: TVM cannot compile a kernel.
        ToolchainError: no linker, or it failed.
    """
    builder = relax.BlockBuilder()
    for name, kernel in kernels.items():
        types = [relax.TensorType(*p) for p in zip(parameter_shapes(kernel), parameter_types(kernel))]
        inputs = [relax.Var(f"x{i}", type_) for i, type_ in enumerate(types[:-1])]
        symbol = f"kernel_{name}"
        func = kernel.func.with_attr("global_symbol", symbol).with_attr("tirx.is_scheduled", True)
        function = builder.add_func(func.with_attr("tirx.noalias", True), symbol)
        with builder.function(name, inputs):
            builder.emit_func_output(builder.emit(relax.call_tir(function, inputs, types[-1])))
    with compiler_errors("compiled"):
        attributes = tvm.target.Target(target.tvm_attributes())
        executable = tvm.compile(builder.get(), attributes, relax_pipeline="default_build")
    executable.export_library(str(path), fcompile=find_toolchain(target))
    return path
