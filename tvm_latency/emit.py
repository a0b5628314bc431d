"""Replace matched groups by calls of scheduled kernels, with layout changes around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

from tvm_latency.blocks import Chain, chain_matches, kernel_spec
from tvm_latency.canonical import NCHW_TO_NHWC, NHWC_TO_NCHW
from tvm_latency.match import Match
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import ConvSpec, Kernel, Pack, PackedArray, PoolSpec, Spec

Schedule = Callable[[Spec], Kernel | None]


@tvm.transform.module_pass(opt_level=0, name="EmitKernels")
class EmitKernels:
    """The pass: groups of `group_operators` become calls of kernels. `names` holds the functions it added."""

    def __init__(self, schedule: Schedule, weights: WeightType = "float32") -> None:
        self.schedule, self.weights = schedule, weights
        self.names: set[str] = set()

    def transform_module(self, module: Any, _: Any) -> Any:
        """Rewrite `main`."""
        chains = chain_matches(module, self.weights, lambda spec: self.schedule(spec) is not None)
        emitter = _Emitter(module, self.schedule, chains)
        main = emitter.visit_expr(module["main"])
        emitter.builder_.update_func(module.get_global_var("main"), main)
        self.names |= emitter.functions.keys()
        return emitter.builder_.get()


@mutator
class _Emitter(PyExprMutator):
    def __init__(self, module: Any, schedule: Schedule, chains: dict[Any, Chain]) -> None:
        super().__init__(module)
        self.schedule, self.chains = schedule, chains
        self.functions: dict[str, Any] = {}

    def visit_var_binding_(self, binding: Any) -> None:
        if self.chains.get(binding.value) != ():  # inside another one's kernel
            super().visit_var_binding_(binding)

    def visit_call_(self, call: Any) -> Any:
        if call in self.chains:
            return self._emitted(self.chains[call], rank=len(call.ty.shape))
        return super().visit_call_(call)

    def _emitted(self, chain: Chain, rank: int) -> Any:
        """The kernel between layout changes: an NCHW tensor goes in as a matrix [pixels, channels] and comes out so.

        rank: of the output; a mean without `keepdims` and a matrix product have two dimensions.
        """
        kernel = self.schedule(kernel_spec(chain))
        assert kernel is not None, "a group was made that no kernel kind takes"
        source, last = self.visit_expr(chain[0].input), chain[-1]
        arguments = [source if kernel.input_layout == "NCHW" else _to_pixels(source)]
        for match, pack in zip(chain, kernel.packs):
            arguments += [relax.const(_packed(match, kernel.name, pack)), relax.const(match.bias)]
        if last.residual is not None:
            arguments.append(_to_pixels(self.visit_expr(last.residual)))
        spec = last.spec
        if isinstance(spec, ConvSpec):
            rows, shape = spec.out_pixels, (spec.batch, spec.out_height, spec.out_width, spec.out_channels)
        else:
            assert isinstance(spec, PoolSpec)
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


def _packed(match: Match, kernel: str, pack: Pack) -> PackedArray:
    """The weights as they are stored.

    Raises:
        ValueError: float16 cannot hold them.
    """
    assert match.weights is not None
    packed = pack(match.weights)
    if packed.dtype == np.float16 and not np.isfinite(packed).all():
        largest = np.abs(match.weights).max()
        found = "weights that are not numbers" if np.isnan(largest) else f"a weight of magnitude {largest:.4g}"
        raise ValueError(
            f"{kernel} has {found}; float16 ends at 65504. Compile the model with float32 weights, or find out "
            "why its training left such weights."
        )
    return packed


def _to_pixels(x: Any) -> Any:
    shape = [int(size) for size in x.ty.shape]
    if len(shape) == 2:
        return x
    n, c, h, w = shape
    return relax.op.reshape(relax.op.permute_dims(x, NCHW_TO_NHWC), (n * h * w, c))
