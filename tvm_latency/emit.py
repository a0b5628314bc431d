"""Replace matched groups by calls of scheduled kernels, with layout changes around them."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from targets.target import Target
from tvm_latency.canonical import NCHW_TO_NHWC, NHWC_TO_NCHW
from tvm_latency.match import Match, read_group
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import ConvSpec, Kernel, Spec


@tvm.transform.module_pass(opt_level=0, name="EmitKernels")
class EmitKernels:
    """The pass: every group of `group_operators` becomes a call of a kernel. `specs`: what those it added compute."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.specs: dict[str, Spec] = {}

    def transform_module(self, module: Any, _: Any) -> Any:
        """Rewrite `main`."""
        emitter = _Emitter(module, self.target)
        main = emitter.visit_expr(module["main"])
        emitter.builder_.update_func(module.get_global_var("main"), main)
        self.specs |= emitter.specs
        return emitter.builder_.get()


@mutator
class _Emitter(PyExprMutator):
    def __init__(self, module: Any, target: Target) -> None:
        super().__init__(module)
        self.module = module
        self.target = target
        self.functions: dict[str, Any] = {}
        self.specs: dict[str, Spec] = {}

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if not isinstance(call.op, tvm.ir.GlobalVar):
            return call
        group = self.module[call.op]
        if "Composite" not in (group.attrs or {}):
            return call
        match = read_group(group, call.args)
        kernel = schedule_kernel(match.spec, self.target)
        assert kernel is not None, "a group was made that no kernel kind takes"
        self.specs[kernel.name] = match.spec
        return self._emitted(match, kernel, rank=len(call.ty.shape))

    def _emitted(self, match: Match, kernel: Kernel, rank: int) -> Any:
        """The kernel between layout changes: an NCHW tensor goes in as a matrix [pixels, channels] and comes out so.

        rank: of the output; a mean without `keepdims` and a matrix product have two dimensions.
        """
        spec = match.spec
        arguments = [match.input if kernel.input_layout == "NCHW" else _to_pixels(match.input)]
        if isinstance(spec, ConvSpec):
            assert match.weights is not None
            assert match.bias is not None
            assert kernel.pack is not None
            arguments += [relax.const(kernel.pack(match.weights)), relax.const(match.bias)]
            if match.residual is not None:
                arguments.append(_to_pixels(match.residual))
            rows, shape = spec.out_pixels, (spec.batch, spec.out_height, spec.out_width, spec.out_channels)
        else:
            rows, shape = spec.batch, (spec.batch, 1, 1, spec.channels)
        result = relax.call_tir(self._function(kernel), arguments, relax.TensorType((rows, shape[-1]), "float32"))
        if rank == 2:
            return result
        return relax.op.permute_dims(relax.op.reshape(result, shape), NHWC_TO_NCHW)

    def _function(self, kernel: Kernel) -> Any:
        if kernel.name not in self.functions:
            func = kernel.func.with_attr("global_symbol", kernel.name).with_attr("tirx.is_scheduled", True)
            # Bounds of buffers are known here; nothing aliases, as every result has storage of its own.
            self.functions[kernel.name] = self.builder_.add_func(func.with_attr("tirx.noalias", True), kernel.name)
        return self.functions[kernel.name]


def _to_pixels(x: Any) -> Any:
    shape = [int(size) for size in x.ty.shape]
    if len(shape) == 2:
        return x
    n, c, h, w = shape
    return relax.op.reshape(relax.op.permute_dims(x, NCHW_TO_NHWC), (n * h * w, c))
