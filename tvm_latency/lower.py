"""From an ONNX model to a TVM module of our kernels: one list of passes, in order."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from tvm import relax
from tvm.relax import transform
from tvm.relax.frontend.onnx import from_onnx

from targets.target import Target
from tvm_latency.canonical import cancel_layouts, fold_affine, raise_elementwise
from tvm_latency.emit import EmitKernels
from tvm_latency.match import group_operators


class LoweringError(ValueError):
    """The model cannot be compiled: not ONNX, an operator nobody lowers, shapes that are not static."""


@dataclass(frozen=True)
class Lowered:
    """A module ready for `tvm.compile`.

    kernels: the names of our scheduled functions; fallbacks: those of functions that only TVM's default loops cover.
    """

    module: Any
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...]


def lower(model: onnx.ModelProto, target: Target) -> Lowered:
    """Lower a model with static shapes; constants are folded and weights packed here, so nothing is left to do at load.

    Raises:
        LoweringError: the model is malformed, has an operator TVM cannot import, or shapes unknown at compile time.
    """
    module = _imported(model)
    emit_kernels = EmitKernels(target)
    passes = [
        transform.DecomposeOpsForInference(),
        raise_elementwise,
        transform.CanonicalizeBindings(),
        transform.FoldConstant(),
        fold_affine,
        transform.DeadCodeElimination(),
        group_operators(),
        emit_kernels,
        cancel_layouts,
        transform.DeadCodeElimination(["main"]),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with tvm.target.Target(target.tvm_attributes()):
        module = tvm.transform.Sequential(passes)(module)
    functions = {var.name_hint: f for var, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    ours = functions.keys() & emit_kernels.names
    # A reshape becomes a view when the module is built: it is no operator.
    rest = {name for name, f in functions.items() if name not in ours and not relax.analysis.has_reshape_pattern(f)}
    return Lowered(module=module, kernels=tuple(sorted(ours)), fallbacks=tuple(sorted(rest)))


def _imported(model: onnx.ModelProto) -> Any:
    try:
        onnx.checker.check_model(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = from_onnx(model, keep_params_in_input=False)
    except (onnx.checker.ValidationError, tvm.error.OpNotImplemented, ValueError, TypeError) as error:
        last = str(error).strip().splitlines()[-1]
        raise LoweringError(f"The ONNX model cannot be imported: {last}") from error
    for parameter in module["main"].params:
        shape = getattr(parameter.ty, "shape", None)
        if shape is None or not all(hasattr(size, "value") for size in shape):
            raise LoweringError(
                f"Input {parameter.name!r} has no static shape. Export the model with fixed sizes, batch included."
            )
    return module
