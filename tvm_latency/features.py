"""What the latency of an operator depends on, as numbers: the additive terms of its seconds, and features of the rest.

`terms` are amounts of work, as the schedules' own tiles cut it; they add up to a first estimate of the seconds (a
roofline with fitted peaks) that also holds outside the calibrated space. `features` describe what the estimate may
miss: how well the shapes fill the tiles and vectors, and in which cache the tensors live.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log2
from typing import Protocol

from targets.target import Target
from tvm_latency import cpu_work, gpu_work
from tvm_latency.opspec import FLOAT_BYTES, OpSpec

Measure = Callable[[OpSpec, Target], float]


class _Work(Protocol):
    """What `cpu_work` and `gpu_work` count."""

    def kernels(self, op: OpSpec, target: Target) -> int: ...
    def product(
        self, pixels: int, channels: int, reduction: int, target: Target, *, pointwise: bool = True
    ) -> float: ...
    def depthwise(self, op: OpSpec, out_pixels: int, target: Target) -> float: ...
    def product_rows(self, pixels: int, channels: int, reduction: int, target: Target) -> int: ...
    def strip_rows(self, op: OpSpec, target: Target) -> int: ...
    def macs_per_issue(self, target: Target) -> int: ...


def _work(target: Target) -> _Work:
    """Who counts the work of products and depthwise convolutions: slots or cycles, which are called issues here."""
    return gpu_work if target.kind == "cuda" else cpu_work


def _pixels(op: OpSpec) -> int:
    return op.batch * op.height * op.width


def _kernels(op: OpSpec, target: Target) -> int:
    """Convolutions, products and pools that the operator runs one after the other."""
    return _work(target).kernels(op, target) if op.kind == "mbconv" else 1


def _out_pixels(op: OpSpec) -> int:
    return op.batch * op.out_height * op.out_width


def _expand_issues(op: OpSpec, target: Target) -> float:
    return _work(target).product(_pixels(op), op.hidden_channels, op.in_channels, target) if op.expands else 0.0


def _depthwise_issues(op: OpSpec, target: Target) -> float:
    return _work(target).depthwise(op, _out_pixels(op), target) if op.kind in ("mbconv", "depthwise") else 0.0


def _project_issues(op: OpSpec, target: Target) -> float:
    if op.kind != "mbconv":
        return 0.0
    return _work(target).product(_out_pixels(op), op.out_channels, op.hidden_channels, target)


def _dense_issues(op: OpSpec, target: Target) -> float:
    """Of a dense convolution or a linear layer."""
    if op.kind not in ("conv", "linear"):
        return 0.0
    pointwise, terms = op.kernel == 1 and op.stride == 1, op.kernel**2 * op.in_channels
    return _work(target).product(_out_pixels(op), op.out_channels, terms, target, pointwise=pointwise)


def _all_issues(op: OpSpec, target: Target) -> float:
    issues = (_expand_issues, _depthwise_issues, _project_issues, _dense_issues)
    return sum(measure(op, target) for measure in issues)


def _activation_bytes(op: OpSpec, target: Target) -> int:
    return op.activation_bytes // FLOAT_BYTES * target.number_bytes


def _boundary_bytes(op: OpSpec, target: Target) -> int:
    """Bytes of input and output."""
    elements = _pixels(op) * op.in_channels + _out_pixels(op) * op.out_channels
    return elements * target.number_bytes


def _expanded_bytes(op: OpSpec, target: Target) -> int:
    """Bytes of what the depthwise convolution reads; of the input where there is none."""
    return _pixels(op) * op.hidden_channels * target.number_bytes


def _window_bytes(op: OpSpec, target: Target) -> int:
    """Bytes of the `kernel` input rows that one output row of the depthwise convolution reads."""
    return op.kernel * op.width * op.hidden_channels * target.number_bytes


def _useful_share(op: OpSpec, target: Target) -> float:
    """Share of the issued lanes that do useful work; 1 where nothing is multiplied."""
    issues = _all_issues(op, target)
    return op.macs / (issues * _work(target).macs_per_issue(target)) if issues else 1.0


# Each is an amount of work, at least 0; its fitted coefficient is seconds per unit. The last word is the unit.
TERMS: dict[str, Measure] = {
    "all_kernels": _kernels,
    "expand_issues": _expand_issues,
    "depthwise_issues": _depthwise_issues,
    "project_issues": _project_issues,
    "dense_issues": _dense_issues,
    "weight_bytes": lambda op, t: op.weight_bytes,
    "boundary_bytes": _boundary_bytes,
    "expanded_bytes": lambda op, t: _activation_bytes(op, t) - _boundary_bytes(op, t),
    "spilled_bytes": lambda op, t: max(0, _expanded_bytes(op, t) - t.l2_bytes),
}

_FEATURES: dict[str, Measure] = {
    "kernels": _kernels,
    "kernel": lambda op, t: op.kernel,
    "stride": lambda op, t: op.stride,
    "expand": lambda op, t: op.hidden_channels / op.in_channels,
    "residual": lambda op, t: op.residual,
    "log_out_pixels": lambda op, t: log2(_out_pixels(op)),
    "log_in_channels": lambda op, t: log2(op.in_channels),
    "log_hidden_channels": lambda op, t: log2(op.hidden_channels),
    "log_out_channels": lambda op, t: log2(op.out_channels),
    "log_flops": lambda op, t: log2(op.flops),
    "log_weight_bytes": lambda op, t: log2(1 + op.weight_bytes),
    "log_activation_bytes": lambda op, t: log2(_activation_bytes(op, t)),
    "log_intensity": lambda op, t: log2(op.flops / (op.weight_bytes + _activation_bytes(op, t))),
    "depthwise_share": lambda op, t: _depthwise_issues(op, t) / max(1.0, _all_issues(op, t)),
    "useful_share": _useful_share,
    "hidden_remainder": lambda op, t: op.hidden_channels % t.lanes,
    "out_remainder": lambda op, t: op.out_channels % t.lanes,
    "out_width_remainder": lambda op, t: op.out_width % 4,
    "product_rows": lambda op, t: _work(t).product_rows(_out_pixels(op), op.out_channels, op.hidden_channels, t),
    "strip_rows": lambda op, t: _work(t).strip_rows(op, t),
    "log_window_over_l1": lambda op, t: log2(_window_bytes(op, t) / t.l1d_bytes),
    "log_expanded_over_l2": lambda op, t: log2(_expanded_bytes(op, t) / t.l2_bytes),
    "log_weights_over_l2": lambda op, t: log2((1 + op.weight_bytes) / t.l2_bytes),
    # Small cores have no third level; the second is the last one then.
    "log_bytes_over_l3": lambda op, t: log2((op.weight_bytes + _activation_bytes(op, t)) / (t.l3_bytes or t.l2_bytes)),
}

FEATURES: tuple[str, ...] = tuple(_FEATURES)


def features(op: OpSpec, target: Target) -> list[float]:
    """The values of `FEATURES` for one operator."""
    return [float(measure(op, target)) for measure in _FEATURES.values()]


def terms(op: OpSpec, target: Target) -> list[float]:
    """The values of `TERMS` for one operator: kernels, vector multiply-adds issued, bytes."""
    return [float(measure(op, target)) for measure in TERMS.values()]
