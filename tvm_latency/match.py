"""Find the operators that kernel kinds take: convolution or matrix product with its epilogue, and global mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tvm
from tvm import relax
from tvm.relax.backend.utils import has_leaking_intermediate_variables
from tvm.relax.dpl import is_const, is_op, wildcard
from tvm.relax.transform import FuseOpsByPattern

from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Operator, PoolSpec


@dataclass(frozen=True, kw_only=True)
class Match:
    """A matched group: what to compute, its folded constants, and which of the group's arguments it reads.

    weights are OIHW (a matrix product's are [out, in, 1, 1]); bias is [out].
    """

    spec: Operator
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


def group_operators(taken: Callable[[Operator], bool]) -> Any:
    """The pass that puts each match into a function of its own, marked with the attribute `Composite`.

    A group is made where nothing outside reads a value from its middle and `taken` says that some kernel kind takes it;
    else a shorter one may still be.
    """

    def check(context: Any) -> bool:
        if has_leaking_intermediate_variables(context):
            return False
        match = _read(_chain(context.matched_bindings), {})
        return match is not None and taken(match.spec)

    return FuseOpsByPattern([(name, pattern, {}, check) for name, pattern in _patterns()], bind_constants=True)


def read_group(group: Any, arguments: Sequence[Any]) -> Match:
    """What a function that `group_operators` made computes, in terms of the arguments it is called with."""
    bindings = {binding.var: binding.value for block in group.body.blocks for binding in block.bindings}
    match = _read(_chain(bindings), dict(zip(group.params, arguments)))
    assert match is not None, "a group was made of what cannot be read"
    return match


def _chain(bindings: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """The calls of a group with the variables they are bound to: the core, then each reader of the one before."""
    calls = [(var, value) for var, value in bindings.items() if isinstance(value, relax.Call)]
    chain = [entry for entry in calls if entry[1].op.name in _CORES]
    while len(chain) < len(calls):
        chain.append(next(entry for entry in calls if any(chain[-1][0].same_as(a) for a in entry[1].args)))
    return chain


def _read(chain: Sequence[tuple[Any, Any]], actual: Mapping[Any, Any]) -> Match | None:
    """What a chain of calls computes; None where it is more than a kernel kind could be asked for.

    Only static shapes and float32 are taken, and an epilogue that leaves the shape of the core's result as it is.
    """
    (before, core), *epilogue = chain
    if not (_static_float(core) and _static_float(core.args[0])):
        return None
    match = _CORES[core.op.name](core, actual.get(core.args[0], core.args[0]))
    for var, call in epilogue:
        if match is None or _shape(call) != _shape(core):
            return None
        operands = [actual.get(a, a) for a in call.args if not a.same_as(before)]
        match = _with_epilogue(match, call, *operands)
        before = var
    return match


def _with_epilogue(match: Match, call: Any, operand: Any = None) -> Match | None:
    """The match with one more call: an activation, a bias or a residual."""
    spec, name = match.spec, call.op.name
    if not isinstance(spec, ConvSpec) or match.bias is None:
        return None
    value = operand.value.numpy() if isinstance(operand, tvm.ir.GenericConst) else None
    if name == "relax.add" and value is not None:
        bias = _bias(value.astype(np.float32), spec.out_channels, len(call.ty.shape))
        return None if bias is None else replace(match, bias=match.bias + bias)
    if name == "relax.add":
        fits = operand is not None and not spec.residual and _static_float(operand) and _shape(operand) == _shape(call)
        return replace(match, residual=operand, spec=replace(spec, residual=True)) if fits else None
    low, high = spec.clip or (-np.inf, np.inf)
    if name == "relax.nn.relu":
        return replace(match, spec=replace(spec, clip=(max(low, 0.0), high)))
    if value is None or value.size != 1:
        return None
    clip = (float(value), high) if name == "relax.maximum" else (low, float(value))
    return replace(match, spec=replace(spec, clip=clip))


def _bias(value: FloatArray, channels: int, rank: int) -> FloatArray | None:
    """A constant as one value for each channel, or for all; None if it is something else.

    NCHW puts channels third from the end, a matrix product last.
    """
    axis = -3 if rank == 4 else -1
    per_channel = value.ndim >= -axis and value.size == value.shape[axis] == channels
    return value.reshape(-1) if value.size == 1 or per_channel else None


def _static_float(expr: Any) -> bool:
    shape = expr.ty.shape
    return str(expr.ty.dtype) == "float32" and shape is not None and all(hasattr(size, "value") for size in shape)


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
    if min(spec.out_height, spec.out_width) < 1:
        return None
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


_CORES: dict[str, Callable[[Any, Any], Match | None]] = {
    "relax.nn.conv2d": _conv,
    "relax.matmul": _matmul,
    "relax.mean": _mean,
}
