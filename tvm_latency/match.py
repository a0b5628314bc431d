"""Find the operators that kernel kinds take: convolution or matrix product with its epilogue, and global mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.backend.utils import has_leaking_intermediate_variables
from tvm.relax.dpl import is_const, is_op, wildcard
from tvm.relax.transform import FuseOpsByPattern

from tvm_latency.schedules.kernel import ConvSpec, FloatArray, PoolSpec, Spec


@dataclass(frozen=True, kw_only=True)
class Match:
    """A matched group: what to compute, its folded constants, and which of the group's arguments it reads.

    weights are OIHW (a matrix product's are [out, in, 1, 1]); bias is [out].
    """

    spec: Spec
    input: Any
    weights: FloatArray | None = None
    bias: FloatArray | None = None
    residual: Any = None


def _clip(x: Any) -> list[Any]:
    bounded = is_op("relax.minimum")(is_op("relax.maximum")(x, is_const()), is_const())
    return [bounded, is_op("relax.nn.relu")(x), x]


def _patterns() -> list[tuple[str, Any]]:
    """Longest first: a group takes as much of the epilogue as there is."""
    conv = is_op("relax.nn.conv2d")(wildcard(), is_const())
    product = is_op("relax.matmul")(wildcard(), is_const())
    found = []
    for name, core in (("conv", conv), ("matmul", product)):
        biased = [is_op("relax.add")(core, is_const()), core]
        with_residual = [
            p for b in biased for p in (is_op("relax.add")(b, wildcard()), is_op("relax.add")(wildcard(), b))
        ]
        ends = (with_residual if name == "conv" else []) + biased
        found += [(f"netlathe.{name}", pattern) for end in ends for pattern in _clip(end)]
    # All clipped forms stand before all bare ones, so that a residual is not cut off from the clip behind it.
    found.sort(key=lambda entry: -_depth(entry[1]))
    return [*found, ("netlathe.mean", is_op("relax.mean")(wildcard()))]


def _depth(pattern: Any) -> int:
    arguments = getattr(pattern, "args", None)
    return 0 if arguments is None else 1 + max((_depth(a) for a in arguments), default=0)


def group_operators() -> Any:
    """The pass that puts each match into a function of its own, marked with the attribute `Composite`."""

    def closed(context: Any) -> bool:
        """Whether nothing outside the group reads a value from its middle; a shorter pattern may still match."""
        return not has_leaking_intermediate_variables(context)

    return FuseOpsByPattern([(name, pattern, {}, closed) for name, pattern in _patterns()], bind_constants=True)


def read_group(group: Any, arguments: list[Any]) -> Match | None:
    """What a composite function computes, in terms of the arguments it is called with; None where no kind could tell.

    Only static shapes and float32 are taken.
    """
    actual = dict(zip(group.params, arguments))
    match: Match | None = None
    for block in group.body.blocks:
        for binding in block.bindings:
            match = _step(match, binding.value, actual)
            if match is None:
                return None
    return match


def _step(match: Match | None, call: Any, actual: dict[Any, Any]) -> Match | None:
    if not isinstance(call, relax.Call):
        return match
    name = call.op.name
    if match is None:
        core = {"relax.nn.conv2d": _conv, "relax.matmul": _matmul, "relax.mean": _mean}[name]
        return core(call, actual[call.args[0]]) if _static_float(call) and _static_float(call.args[0]) else None
    if not isinstance(match.spec, ConvSpec):
        return None
    if name == "relax.add":
        return _add(match, call, actual)
    low, high = match.spec.clip or (-np.inf, np.inf)
    if name == "relax.nn.relu":
        low = max(low, 0.0)
    else:
        value = call.args[1].value.numpy()
        if value.size != 1:
            return None
        low, high = (float(value), high) if name == "relax.maximum" else (low, float(value))
    return replace(match, spec=replace(match.spec, clip=(low, high)))


def _static_float(expr: Any) -> bool:
    return str(expr.ty.dtype) == "float32" and all(hasattr(size, "value") for size in expr.ty.shape)


def _shape(expr: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in expr.ty.shape)


def _conv(call: Any, source: Any) -> Match | None:
    a = call.attrs
    weights = call.args[1].value.numpy()
    top, left, bottom, right = (int(p) for p in a.padding)
    vertical, horizontal = (int(s) for s in a.strides)
    planar = (a.data_layout, a.kernel_layout, a.out_layout) == ("NCHW", "OIHW", "NCHW")
    square = top == left == bottom == right and vertical == horizontal and all(int(d) == 1 for d in a.dilation)
    if not (planar and square):
        return None
    n, c, h, w = _shape(call.args[0])
    spec = ConvSpec(
        batch=n,
        height=h,
        width=w,
        in_channels=c,
        out_channels=weights.shape[0],
        kernel=(weights.shape[2], weights.shape[3]),
        stride=vertical,
        padding=top,
        groups=int(a.groups),
    )
    return Match(spec=spec, input=source, weights=weights, bias=np.zeros(weights.shape[0], np.float32))


def _matmul(call: Any, source: Any) -> Match | None:
    weights = call.args[1].value.numpy()
    shape = _shape(call.args[0])
    if len(shape) != 2 or weights.ndim != 2:
        return None
    k, n = weights.shape
    spec = ConvSpec(batch=shape[0], height=1, width=1, in_channels=k, out_channels=n)
    return Match(
        spec=spec,
        input=source,
        weights=np.ascontiguousarray(weights.T).reshape(n, k, 1, 1),
        bias=np.zeros(n, np.float32),
    )


def _mean(call: Any, source: Any) -> Match | None:
    shape = _shape(call.args[0])
    axes = {int(a) % len(shape) for a in call.attrs.axis or range(len(shape))}
    if len(shape) != 4 or axes != {2, 3}:
        return None
    n, c, h, w = shape
    return Match(spec=PoolSpec(batch=n, height=h, width=w, channels=c), input=source)


def _add(match: Match, call: Any, actual: dict[Any, Any]) -> Match | None:
    assert isinstance(match.spec, ConvSpec)
    constants = [a for a in call.args if isinstance(a, tvm.ir.GenericConst)]
    if constants:
        value = constants[0].value.numpy().astype(np.float32)
        channels = match.spec.out_channels
        # NCHW puts channels third from the end, a matrix product last.
        axis = -3 if len(call.ty.shape) == 4 else -1
        per_channel = value.ndim >= -axis and value.size == value.shape[axis] == channels
        if value.size != 1 and not per_channel:
            return None
        return replace(match, bias=match.bias + value.reshape(-1))
    outside = [actual[a] for a in call.args if a in actual]
    if len(outside) != 1 or match.spec.residual or _shape(outside[0]) != _shape(call):
        return None
    return replace(match, residual=outside[0], spec=replace(match.spec, residual=True))
