"""What stands between two kernels of ours and cancels out: changes of layout, conversions to float32 and back."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import relax
from tvm.relax.dpl import is_op, wildcard
from tvm_ffi import structural_equal

from tvm_latency.canonical import Rewriter, axes_of, rewrite_until_stable


def _inverse_permutations() -> tuple[Any, Rewriter]:
    """permute_dims(permute_dims(x, p), q)  -->  x where q undoes p."""
    x = wildcard()
    inner = is_op("relax.permute_dims")(x)
    pattern = is_op("relax.permute_dims")(inner)

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        first, second = (axes_of(call, len(expr.ty.shape)) for call in (found[inner], expr))
        return found[x] if tuple(first[i] for i in second) == tuple(range(len(first))) else expr

    return pattern, rewrite


def _unit_permutation() -> tuple[Any, Rewriter]:
    """permute_dims(x) that moves only axes of length 1  -->  reshape(x)."""
    x = wildcard()
    pattern = is_op("relax.permute_dims")(x)

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        shape = [int(size) for size in found[x].ty.shape]
        axes = axes_of(expr, len(shape))
        moved = [a for a in axes if shape[a] != 1]
        return relax.op.reshape(found[x], [shape[a] for a in axes]) if moved == sorted(moved) else expr

    return pattern, rewrite


def _reshapes() -> tuple[Any, Rewriter]:
    """reshape(reshape(x, a), b)  -->  reshape(x, b)."""
    x, shape = wildcard(), wildcard()
    pattern = is_op("relax.reshape")(is_op("relax.reshape")(x, wildcard()), shape)
    return pattern, lambda expr, found: relax.op.reshape(found[x], found[shape])


def _same_shape() -> tuple[Any, Rewriter]:
    """reshape(x, shape of x)  -->  x."""
    x = wildcard()
    pattern = is_op("relax.reshape")(x, wildcard())

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        return found[x] if structural_equal(found[x].ty.shape, expr.ty.shape) else expr

    return pattern, rewrite


def _reshape_first() -> tuple[Any, Rewriter]:
    """reshape(astype(x))  -->  astype(reshape(x))."""
    x, shape = wildcard(), wildcard()
    pattern = is_op("relax.reshape")(is_op("relax.astype")(x), shape)
    return pattern, lambda expr, found: relax.op.astype(relax.op.reshape(found[x], found[shape]), str(expr.ty.dtype))


def _permute_first() -> tuple[Any, Rewriter]:
    """permute_dims(astype(x))  -->  astype(permute_dims(x))."""
    x = wildcard()
    pattern = is_op("relax.permute_dims")(is_op("relax.astype")(x))

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        permuted = relax.op.permute_dims(found[x], axes_of(expr, len(expr.ty.shape)))
        return relax.op.astype(permuted, str(expr.ty.dtype))

    return pattern, rewrite


def _there_and_back() -> tuple[Any, Rewriter]:
    """astype(astype(x, float32), float16)  -->  x where x is float16."""
    x = wildcard()
    wide = is_op("relax.astype")(x)
    pattern = is_op("relax.astype")(wide)

    def rewrite(expr: Any, found: dict[Any, Any]) -> Any:
        types = tuple(str(value.ty.dtype) for value in (found[x], found[wide], expr))
        return found[x] if types == ("float16", "float32", "float16") else expr

    return pattern, rewrite


_RULES = (
    _reshape_first(),
    _permute_first(),
    _there_and_back(),
    _unit_permutation(),
    _inverse_permutations(),
    _reshapes(),
    _same_shape(),
)


@tvm.transform.module_pass(opt_level=0, name="CancelLayouts")
def cancel_layouts(module: Any, _: Any) -> Any:
    """Remove the layout changes and conversions between two kernels of ours."""
    return rewrite_until_stable(module, _RULES)
