"""Compile a lowered model into a shared library that TVM's runtime loads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import tvm

from targets.target import Target
from targets.toolchain import find_toolchain
from tvm_latency.lower import Lowered, compiler_errors, lower


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


def compile_onnx(
    model: onnx.ModelProto, target: Target, finish: Callable[[Lowered], Lowered] | None = None
) -> Compiled:
    """Lower and compile; `finish` may replace functions in between.

    Raises:
        LoweringError: see `tvm_latency.lower.lower`; or TVM cannot compile what it lowered.
    """
    lowered = lower(model, target)
    if finish is not None:
        lowered = finish(lowered)
    attributes = tvm.target.Target(target.tvm_attributes())
    with compiler_errors("compiled"):
        executable = tvm.compile(lowered.module, attributes, relax_pipeline="default_build")
    return Compiled(executable, target, lowered.kernels, lowered.fallbacks)
