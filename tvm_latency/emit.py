"""Replace matched groups by calls of scheduled kernels, with layout changes around them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from targets.target import Stored
from tvm_latency.blocks import Chain, chain_matches, kernel_spec
from tvm_latency.canonical import NCHW_TO_NHWC, NHWC_TO_NCHW
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import FloatArray, Kernel, Pack, PackedArray, Spec, pack_bias

Schedule = Callable[[Spec], Kernel | None]

# `OpPatternKind.kOpaque` of TVM.
_OPAQUE = 8


@tvm.transform.module_pass(opt_level=0, name="EmitKernels")
class EmitKernels:
    """The pass: groups of `group_operators` become calls of kernels. `specs`: what those it added compute, by name."""

    def __init__(self, schedule: Schedule, weights: WeightType = "float32") -> None:
        self.schedule, self.weights = schedule, weights
        self.specs: dict[str, Spec] = {}

    def transform_module(self, module: Any, _: Any) -> Any:
        """Rewrite `main`."""
        chains = chain_matches(module, self.weights, lambda spec: self.schedule(spec) is not None)
        emitter = _Emitter(module, self.schedule, chains)
        main = emitter.visit_expr(module["main"])
        emitter.builder_.update_func(module.get_global_var("main"), main)
        self.specs |= emitter.specs
        return emitter.builder_.get()


@mutator
class _Emitter(PyExprMutator):
    def __init__(self, module: Any, schedule: Schedule, chains: dict[Any, Chain]) -> None:
        super().__init__(module)
        self.schedule, self.chains = schedule, chains
        self.functions: dict[str, Any] = {}
        self.specs: dict[str, Spec] = {}
        self.matrices: dict[Any, Any] = {}

    def visit_var_binding_(self, binding: Any) -> None:
        """Emit the kernel between layout changes: an NCHW tensor becomes a matrix [pixels, channels] and comes back so.

        What computes in another type stands between conversions to it and back. The next kernel reads the matrix; what
        then reads no result of a layout change or conversion is dead code.
        """
        chain = self.chains.get(binding.var)
        if chain is None:
            super().visit_var_binding_(binding)
        elif chain:
            self.matrices[binding.var] = matrix = self.builder_.emit(self._kernel_call(chain))
            result, spec = _as_type(matrix, "float32"), chain[-1].spec
            if len(binding.var.ty.shape) != 2:  # a matrix product's, or that of a mean without `keepdims`
                shape = (spec.batch, spec.out_height, spec.out_width, spec.out_channels)
                result = relax.op.permute_dims(relax.op.reshape(result, shape), NHWC_TO_NCHW)
            inside = isinstance(binding.var, relax.DataflowVar)
            self.set_var_remap(binding.var, (self.builder_.emit if inside else self.builder_.emit_output)(result))

    def _kernel_call(self, chain: Chain) -> Any:
        spec = kernel_spec(chain)
        kernel = self.schedule(spec)
        assert kernel is not None, "a group was made that no kernel kind takes"
        self.specs[kernel.name] = spec
        source, last, dtype = chain[0].input, chain[-1], kernel.dtype
        planar = kernel.input_layout == "NCHW"
        arguments = [self.visit_expr(source) if planar else self._pixels(source, dtype)]
        for match, pack in zip(chain, kernel.packs):
            assert match.bias is not None
            bias = partial(pack_bias, dtype=dtype)
            arguments += [
                relax.const(_packed("a weight", match.weights, kernel, pack)),
                relax.const(_packed("a bias", match.bias, kernel, bias)),
            ]
        if last.residual is not None:
            arguments.append(self._pixels(last.residual, dtype))
        shape = (last.spec.out_pixels, last.spec.out_channels)
        return relax.call_tir(self._function(kernel), arguments, relax.TensorType(shape, dtype))

    def _pixels(self, x: Any, dtype: Stored) -> Any:
        """An NCHW tensor as a matrix [pixels, channels] of dtype; a kernel's stays what it is."""
        if x in self.matrices:
            return self.matrices[x]
        x = self.visit_expr(x)
        shape = [int(size) for size in x.ty.shape]
        x = _as_type(x, dtype)
        if len(shape) == 2:
            return x
        n, c, h, w = shape
        return relax.op.reshape(relax.op.permute_dims(x, NCHW_TO_NHWC), (n * h * w, c))

    def _function(self, kernel: Kernel) -> Any:
        if kernel.name not in self.functions:
            func = kernel.func.with_attr("global_symbol", kernel.name).with_attr("tirx.is_scheduled", True)
            # No operator behind it may be fused into it: its loops are as they shall be.
            func = func.with_attr("op_pattern", _OPAQUE)
            # Bounds of buffers are known here; nothing aliases, as every result has storage of its own.
            self.functions[kernel.name] = self.builder_.add_func(func.with_attr("tirx.noalias", True), kernel.name)
        return self.functions[kernel.name]


def _as_type(x: Any, dtype: Stored) -> Any:
    return x if str(x.ty.dtype) == dtype else relax.op.astype(x, dtype)


def _packed(what: str, values: FloatArray | None, kernel: Kernel, pack: Pack) -> PackedArray:
    """The values as they are stored; what: one of them.

    Raises:
        ValueError: float16 cannot hold them.
    """
    assert values is not None
    packed = pack(values)
    if packed.dtype == np.float16 and not np.isfinite(packed).all():
        largest = np.abs(values).max()
        found = f"{what} that is not a number" if np.isnan(largest) else f"{what} of magnitude {largest:.4g}"
        option = "--dtype" if kernel.dtype == "float16" else "--weights"
        raise ValueError(
            f"{kernel.name} has {found}; float16 ends at 65504. Compile the model with {option} float32, or find out "
            "why its training left such weights."
        )
    return packed
