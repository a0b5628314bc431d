"""Passes that bring an imported graph to the few forms that `match.py` knows, and that tidy up after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tvm
from tvm import relax, tirx
from tvm.relax.dpl import is_const, is_op, rewrite_call, wildcard
from tvm.relax.expr_functor import PyExprMutator, mutator
from tvm.s_tir import SBlockRealize
from tvm_ffi import structural_equal

NCHW_TO_NHWC = (0, 2, 3, 1)
NHWC_TO_NCHW = (0, 3, 1, 2)

Rewriter = Callable[[Any, dict[Any, Any]], Any]


@mutator
class _RaiseElementwise(PyExprMutator):
    """`call_tir(maximum, (x, c))`, which the ONNX importer writes for Clip, becomes `relax.maximum(x, c)`.

    Before opset 11 the bound is not an argument but stands in the function.
    """

    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if call.op != tvm.ir.Op.get("relax.call_tir"):
            return call
        value = elementwise_value(self.builder_.get()[call.args[0]])
        raised = {tirx.Max: relax.op.maximum, tirx.Min: relax.op.minimum}.get(type(value))
        operands = list(call.args[1])
        if raised and len(operands) == 1 and isinstance(value.b, tirx.FloatImm):
            operands.append(relax.const(float(value.b.value), str(value.b.ty.dtype)))
        return raised(*operands) if raised and len(operands) == 2 else call


def elementwise_value(func: Any) -> Any:
    """The one expression that a function stores; None if it is more than loops around one store."""
    node = func.body.block.body
    while isinstance(node, tirx.For):
        node = node.body
    store = node.block.body if isinstance(node, SBlockRealize) else None
    return store.value if isinstance(store, tirx.BufferStore) else None


@tvm.transform.module_pass(opt_level=0, name="RaiseElementwise")
def raise_elementwise(module: Any, _: Any) -> Any:
    """Turn maximum and minimum, imported as TIR functions, back into Relax operators with plain constants."""
    main = _RaiseElementwise(module).visit_expr(module["main"])
    module = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
    module.update_func(module.get_global_var("main"), main)
    return rewrite_until_stable(module, (_clip_bound(), _constant_view()))


def _array(constant: Any) -> Any:
    return constant.value.numpy()


def _constant(array: Any) -> Any:
    """A constant of the array's own type: left to itself, `relax.const` makes 32 bits of 64."""
    return relax.const(array, str(array.dtype))


def axes_of(permute: Any, rank: int) -> tuple[int, ...]:
    """The axes of a permute_dims call; without any it reverses them."""
    return tuple(int(a) for a in permute.attrs.axes) if permute.attrs.axes else tuple(reversed(range(rank)))


def _per_channel(constant: Any) -> Any | None:
    """A constant as [channels, 1, 1, 1], if it is one value for each channel of an NCHW tensor or one for all."""
    value = _array(constant)
    if value.size == 1 and value.ndim <= 4:
        return value.reshape(1, 1, 1, 1)
    if value.ndim in (3, 4) and value.size == value.shape[-3]:
        return value.reshape(-1, 1, 1, 1)
    return None


def _fold_scale(divide: bool) -> tuple[Any, Rewriter]:
    """conv(x, W) * c  -->  conv(x, W * c); the same for division."""
    x, weights, factor = wildcard(), is_const(), is_const()
    conv = is_op("relax.nn.conv2d")(x, weights)
    pattern = is_op("relax.divide" if divide else "relax.multiply")(conv, factor)

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        scale = _per_channel(found[factor])
        if scale is None:
            return expr
        folded = _array(found[weights]) / scale if divide else _array(found[weights]) * scale
        return relax.Call(found[conv].op, [found[x], _constant(folded)], found[conv].attrs)

    return pattern, rewrite


def _scale_after_bias(divide: bool) -> tuple[Any, Rewriter]:
    """(conv + b) * c  -->  conv * c + b * c; the same for division."""
    conv, bias, factor = is_op("relax.nn.conv2d")(wildcard(), is_const()), is_const(), is_const()
    pattern = is_op("relax.divide" if divide else "relax.multiply")(is_op("relax.add")(conv, bias), factor)
    apply = relax.op.divide if divide else relax.op.multiply

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        b, c = _array(found[bias]), _array(found[factor])
        if _per_channel(found[factor]) is None:
            return expr
        return relax.op.add(apply(found[conv], found[factor]), _constant(b / c if divide else b * c))

    return pattern, rewrite


@tvm.transform.module_pass(opt_level=0, name="FoldConstants")
def fold_constants(module: Any, _: Any) -> Any:
    """TVM's FoldConstant where an operator has constants only; it takes a quarter of a second to find that none has."""
    for binding in (binding for block in module["main"].body.blocks for binding in block.bindings):
        arguments = getattr(binding.value, "args", [None])
        tensors = [a for a in arguments if not isinstance(a, tvm.ir.GlobalVar | relax.ShapeExpr)]
        if tensors and all(_is_constant(a) for a in tensors):
            return relax.transform.FoldConstant()(module)
    return module


def _is_constant(expr: Any) -> bool:
    if isinstance(expr, relax.Tuple):
        return all(map(_is_constant, expr.fields))
    return isinstance(expr, tvm.ir.GenericConst)


# TVM's FoldConstant compiles a function for each constant it folds, 20 ms apiece; NumPy folds what every imported model
# has a hundred of.


def _clip_bound() -> tuple[Any, Rewriter]:
    """where(isnan(c), default, c)  -->  its value. The importer guards every clip bound so."""
    bound, default = is_const(), is_const()
    pattern = is_op("relax.where")(is_op("relax.isnan")(bound), default, bound)

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        return found[default] if np.isnan(_array(found[bound])) else found[bound]

    return pattern, rewrite


def _constant_view() -> tuple[Any, Rewriter]:
    """reshape, expand_dims or permute_dims of a constant  -->  a constant."""
    constant = is_const()
    permuted = is_op("relax.permute_dims")(constant)
    pattern = permuted | is_op("relax.reshape")(constant, wildcard()) | is_op("relax.expand_dims")(constant)

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        value = _array(found[constant])
        if permuted in found:
            value = value.transpose(axes_of(expr, value.ndim))
        shape = [int(size) for size in expr.ty.shape]
        return _constant(np.ascontiguousarray(value).reshape(shape))

    return pattern, rewrite


def _subtract_to_add() -> tuple[Any, Rewriter]:
    """x - c  -->  x + (-c)."""
    x, constant = wildcard(), is_const()
    pattern = is_op("relax.subtract")(x, constant)
    return pattern, lambda expr, found: relax.op.add(found[x], _constant(-_array(found[constant])))


def _merge_biases() -> tuple[Any, Rewriter]:
    """(x + a) + b  -->  x + (a + b) for constants a and b."""
    x, a, b = wildcard(), is_const(), is_const()
    pattern = is_op("relax.add")(is_op("relax.add")(x, a), b)
    return pattern, lambda expr, found: relax.op.add(found[x], _constant(_array(found[a]) + _array(found[b])))


@tvm.transform.module_pass(opt_level=0, name="FoldAffine")
def fold_affine(module: Any, _: Any) -> Any:
    """Fold what a batch norm becomes (subtract, divide, multiply, add) into the convolution before it."""
    rules = (
        _subtract_to_add(),
        _merge_biases(),
        _scale_after_bias(False),
        _scale_after_bias(True),
        _fold_scale(False),
        _fold_scale(True),
    )
    return rewrite_until_stable(module, rules)


def rewrite_until_stable(module: Any, rules: tuple[tuple[Any, Rewriter], ...]) -> Any:
    """Apply the rules to `main` until none changes it."""
    main = module["main"]
    while True:
        before = main
        for pattern, rewrite in rules:
            main = rewrite_call(pattern, rewrite, main)
        if structural_equal(before, main):
            break
    module.update_func(module.get_global_var("main"), main)
    return module
