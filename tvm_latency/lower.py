"""From an ONNX model to a TVM module of our kernels: one list of passes, in order."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

import onnx
import tvm
from tvm import relax, tirx
from tvm.relax import transform
from tvm.relax.frontend.onnx import from_onnx

from targets.target import Target
from targets.toolchain import ToolchainError
from tvm_latency.canonical import elementwise_value, fold_affine, fold_constants, raise_elementwise
from tvm_latency.emit import EmitKernels
from tvm_latency.layouts import cancel_layouts
from tvm_latency.match import group_operators
from tvm_latency.network_plan import NetworkPlan, plan_network
from tvm_latency.opspec import WeightType
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import Spec, with_weights
from tvm_latency.single_call import single_call
from tvm_latency.unsupported import unsupported


class LoweringError(ValueError):
    """The model cannot be compiled: not ONNX, an operator nobody lowers, shapes that are not static."""


@dataclass(frozen=True)
class Lowered:
    """A module ready for `tvm.compile`.

    kernels: the names of our scheduled functions; specs: what they compute, in the same order; fallbacks: the names of
        functions that only TVM's default loops cover; calls: of both, as often and in the order as the network runs
        them; plan: the network as data, None where TVM's virtual machine has to run it.
    """

    module: Any
    kernels: tuple[str, ...]
    specs: tuple[Spec, ...]
    fallbacks: tuple[str, ...]
    calls: tuple[str, ...]
    plan: NetworkPlan | None


def lower(model: onnx.ModelProto, target: Target, weights: WeightType = "float32") -> Lowered:
    """Lower a model with static shapes; constants are folded and weights packed here, so nothing is left to do at load.

    weights: the type in which our kernels store theirs; those of fallbacks stay as they are in the model.

    Raises:
        LoweringError: the model is malformed, has an operator TVM cannot import, shapes unknown at compile time, or
            weights that the type cannot hold.
    """
    module = _imported(model)
    emit_kernels = EmitKernels(lambda spec: schedule_kernel(spec, target), weights)
    passes = [
        transform.DecomposeOpsForInference(),
        raise_elementwise,
        transform.CanonicalizeBindings(),
        fold_constants,
        fold_affine,
        transform.DeadCodeElimination(),
        group_operators(lambda spec: schedule_kernel(with_weights(spec, weights), target) is not None),
        emit_kernels,
        transform.DeadCodeElimination(["main"]),
        cancel_layouts,
        transform.DeadCodeElimination(["main"]),
        transform.LegalizeOps(),
        transform.AnnotateTIROpPattern(),
        transform.FoldConstant(),
        transform.FuseOps(),
        transform.FuseTIR(),
        transform.DeadCodeElimination(),
    ]
    with compiler_errors("lowered"), tvm.target.Target(target.tvm_attributes()):
        module = tvm.transform.Sequential(passes)(module)
    functions = {var.name_hint: f for var, f in module.functions_items() if isinstance(f, tvm.tirx.PrimFunc)}
    ours = sorted(functions.keys() & emit_kernels.specs.keys())
    # No operators: a reshape becomes a view when the module is built, and a network in float16 converts at its ends.
    rest = {
        name
        for name, f in functions.items()
        if name not in ours
        and not relax.analysis.has_reshape_pattern(f)
        and not (target.dtype == "float16" and _converts(f))
    }
    specs = tuple(emit_kernels.specs[name] for name in ours)
    calls = tuple(name for name in _called(module["main"]) if name in rest or name in ours)
    with compiler_errors("lowered"):
        plan = plan_network(module)
        # What launches the kernels of a GPU is no function of TVM's: see `tvm_latency.gpu_network`.
        module = single_call(module, plan, target.pointer_bits) if plan and target.kind != "cuda" else module
    return Lowered(module, tuple(ours), specs, tuple(sorted(rest)), calls, plan)


def _converts(func: Any) -> bool:
    """Whether it does nothing but to turn each float16 into a float32, or back."""
    value = elementwise_value(func)
    if not (isinstance(value, tirx.Cast) and isinstance(value.value, tvm.ir.expr.TensorLoad)):
        return False
    return {str(value.ty.dtype), str(value.value.ty.dtype)} == {"float16", "float32"}


def _called(main: Any) -> Iterator[str]:
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        if isinstance(binding.value, relax.Call) and "call_tir" in str(binding.value.op.name):
            yield binding.value.args[0].name_hint


def _imported(model: onnx.ModelProto) -> Any:
    with compiler_errors("imported"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        onnx.checker.check_model(model)
        if sentence := unsupported(model.graph):
            raise LoweringError(sentence)
        module = from_onnx(model, keep_params_in_input=False)
    main = module["main"]
    for parameter in main.params:
        if not _static(parameter):
            raise LoweringError(
                f"Input {parameter.name!r} has no static shape. Export the model with fixed sizes, batch included."
            )
    for binding in (binding for block in main.body.blocks for binding in block.bindings):
        if isinstance(binding.var.ty, relax.TensorType) and not _static(binding.var):
            name = getattr(getattr(binding.value, "op", None), "name", "an operator")
            raise LoweringError(
                f"The size of what {name} answers depends on values that are known only at run time, which cannot be "
                "compiled. Export the model without that operator."
            )
    return module


def _static(expr: Any) -> bool:
    shape = getattr(expr.ty, "shape", None)
    return shape is not None and all(hasattr(size, "value") for size in shape)


@contextmanager
def compiler_errors(what: str) -> Iterator[None]:
    """Turn whatever TVM raises about a model into a LoweringError: "the model cannot be `what`".

    TVM maps its own errors to Python's, and its importer raises more of them, an AssertionError without text among
    them. What it prints goes to standard error, where it cannot come between a program and its JSON.
    """
    try:
        with redirect_stdout(sys.stderr):
            yield
    except (LoweringError, ToolchainError):
        raise
    except (
        onnx.checker.ValidationError,
        tvm.error.OpNotImplemented,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        NotImplementedError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        last = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        raise LoweringError(f"The ONNX model cannot be {what}: {last}") from error
