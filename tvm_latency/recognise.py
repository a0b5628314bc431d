"""The operators of a network that came as an ONNX file: what it runs, in the terms that the cost model knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import onnx

from targets.target import Target
from tvm_latency.lower import lower
from tvm_latency.opspec import OpSpec, WeightType
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, PoolSpec, Spec

# A kernel by what it computes, or a function of TVM's own by its name.
Step = Spec | str


@dataclass(frozen=True)
class Recognised:
    """A network's operators in the order they run, and what is none: loops of TVM's own, kernels of odd shapes."""

    ops: tuple[OpSpec, ...]
    others: tuple[str, ...]


def recognise(model: onnx.ModelProto, target: Target, weights: WeightType = "float32") -> Recognised:
    """What the model runs once it is lowered for a target; nothing is compiled.

    An inverted residual is one operator whether one kernel computes it or three, and in whichever type.

    Raises:
        LoweringError: see `tvm_latency.lower.lower`.
    """
    lowered = lower(model, target.with_dtype("float32"), weights)
    specs = dict(zip(lowered.kernels, lowered.specs))
    steps: list[Step] = []
    for name in lowered.calls:
        spec = specs.get(name, name)
        # Which convolutions of a block one kernel computes is the schedules' affair.
        steps += spec.convolutions if isinstance(spec, BlockSpec) else [spec]
    found = [(step, None if isinstance(step, str) else _operator(step, weights)) for step in _grouped(steps)]
    return Recognised(
        ops=tuple(op for _, op in found if op is not None),
        others=tuple(step if isinstance(step, str) else step.suffix for step, op in found if op is None),
    )


def _grouped(steps: list[Step]) -> Iterator[Step]:
    """The steps, with those that make up an inverted residual as one wherever an operator says the same."""
    position = 0
    while position < len(steps):
        for length in (3, 2):
            block = _block(steps[position : position + length])
            if block is not None and _operator(block, "float32") is not None:
                yield block
                position += length
                break
        else:
            yield steps[position]
            position += 1


def _block(steps: list[Step]) -> BlockSpec | None:
    """[expand], depthwise, project, each reading the one before, as far as shapes tell."""
    convs = [step for step in steps if isinstance(step, ConvSpec)]
    if len(convs) != len(steps) or not 2 <= len(convs) <= 3:
        return None
    *expand, depthwise, project = convs
    hidden = depthwise.in_channels
    fits = (
        _is_depthwise(depthwise)
        and project.pointwise
        and project.in_channels == hidden
        and (project.height, project.width) == (depthwise.out_height, depthwise.out_width)
        and all(e.pointwise and e.out_channels == hidden for e in expand)
        and all((e.height, e.width) == (depthwise.height, depthwise.width) for e in expand)
    )
    return BlockSpec(expand=expand[0] if expand else None, depthwise=depthwise, project=project) if fits else None


def _operator(spec: Spec, weights: WeightType) -> OpSpec | None:
    """The operator that a spec is; None if there is none with its padding, strides or residual."""
    if isinstance(spec, PoolSpec):
        pool = partial(OpSpec, kind="pool", height=spec.height, width=spec.width, batch=spec.batch, dtype=weights)
        return pool(in_channels=spec.channels, out_channels=spec.channels)
    main = spec.depthwise if isinstance(spec, BlockSpec) else spec
    kernel = main.kernel[0]
    if main.kernel != (kernel, kernel) or kernel % 2 == 0 or main.padding != kernel // 2:
        return None
    operator = partial(
        OpSpec,
        height=main.height,
        width=main.width,
        kernel=kernel,
        stride=main.stride,
        batch=main.batch,
        dtype=weights,
    )
    if isinstance(spec, BlockSpec):
        source, out = (spec.expand or main).in_channels, spec.project.out_channels
        expand, rest = divmod(main.in_channels, source)
        whole = not spec.expand or (expand > 1 and not rest)
        block = partial(operator, kind="mbconv", in_channels=source, out_channels=out)
        op = block(expand=expand) if whole else block(hidden=main.in_channels)
        return op if op.residual == spec.project.residual else None
    operator = partial(operator, in_channels=main.in_channels, out_channels=main.out_channels)
    if _is_depthwise(main):
        return operator(kind="depthwise")
    if main.groups > 1 or main.residual:
        return None
    return operator(kind="linear" if main.pointwise and main.height * main.width == 1 else "conv")


def _is_depthwise(conv: ConvSpec) -> bool:
    return 1 < conv.groups == conv.in_channels == conv.out_channels
