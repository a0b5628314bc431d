"""Latency tables as the official ProxylessNAS code keeps them: YAML, one entry for each layer, `mean` in milliseconds.

Keys are those that `LatencyEstimator.predict` asks for (github.com/mit-han-lab/proxylessnas,
search/utils/latency_estimator.py): `Conv` is the stem, `expanded_conv` a block, `Conv_1` the 1x1 head, and `Logits`
everything after it, so that a mean pool and a linear layer share one entry.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import yaml

from tvm_latency.opspec import OpSpec

_SHAPE = r"(\d+)x(\d+)x(\d+)"
_LAYER = re.compile(rf"(Conv|Conv_1)-input:{_SHAPE}-output:{_SHAPE}")
_BLOCK = re.compile(
    rf"expanded_conv-input:{_SHAPE}-output:{_SHAPE}-expand:(\d+)-kernel:(\d+)-stride:(\d+)-idskip:([01])"
)
_LOGITS = re.compile(rf"Logits-input:{_SHAPE}-output:(\d+)")

STEM_KERNEL = 3


class ProxylessYamlError(ValueError):
    """The file is no table of that kind, or holds a layer that no operator of ours is."""


def write_proxyless_yaml(ops: Mapping[OpSpec, float], path: Path) -> None:
    """Write seconds of operators in a network, atomically.

    Raises:
        ProxylessYamlError: an operator for another batch than 1, or one that the format has no name for.
    """
    means: dict[str, float] = {}
    for op, seconds in ops.items():
        key = _key(op, ops)
        means[key] = means.get(key, 0.0) + 1e3 * seconds
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(yaml.safe_dump({key: {"mean": mean} for key, mean in means.items()}, sort_keys=True))
    temporary.replace(path)


def read_proxyless_yaml(path: Path) -> tuple[dict[OpSpec, float], tuple[str, ...]]:
    """Seconds of each operator, and the keys of layers that no operator of ours is.

    `Logits` becomes a pool and a linear layer, which share its time by their bytes.

    Raises:
        ProxylessYamlError: not such a file, a time that is no time, or not one layer that is known.
    """
    try:
        table = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProxylessYamlError(f"{path} is not YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(table, dict) or not table:
        raise ProxylessYamlError(f"{path} is no latency table: it must map layers to entries with a `mean`.")
    seconds: dict[OpSpec, float] = {}
    left_out = []
    for key, entry in table.items():
        mean = entry.get("mean") if isinstance(entry, dict) else None
        if not isinstance(mean, int | float) or not (math.isfinite(mean) and mean > 0):
            raise ProxylessYamlError(f"{path}: {key} needs a `mean` of milliseconds above zero, has {mean!r}.")
        ops = _ops(str(key))
        total = sum(_bytes(op) for op in ops)
        seconds |= {op: 1e-3 * mean * _bytes(op) / total for op in ops}
        left_out += [] if ops else [str(key)]
    if not seconds:
        raise ProxylessYamlError(
            f"{path} has no layer of a ProxylessNAS network: {left_out[0]!r} is none. Known are Conv, expanded_conv, "
            "Conv_1 and Logits, each with its shapes."
        )
    return seconds, tuple(left_out)


def _bytes(op: OpSpec) -> int:
    return op.weight_bytes + op.activation_bytes


def _key(op: OpSpec, ops: Iterable[OpSpec]) -> str:
    if op.batch != 1 or op.dtype != "float32":
        raise ProxylessYamlError(f"{op.key}: the format has entries for one image and float32 weights only.")
    source = f"input:{op.height}x{op.width}x{op.in_channels}"
    output = f"output:{op.out_height}x{op.out_width}x{op.out_channels}"
    if op.kind == "mbconv":
        shape = f"expand:{op.expand}-kernel:{op.kernel}-stride:{op.stride}-idskip:{int(op.residual)}"
        return f"expanded_conv-{source}-{output}-{shape}"
    if op.kind == "conv" and op.kernel in (1, STEM_KERNEL):
        return f"{'Conv' if op.kernel == STEM_KERNEL else 'Conv_1'}-{source}-{output}"
    # The pool and the linear layer that reads its result, whichever of the two this is.
    pool = next((o for o in ops if o.kind == "pool"), None)
    linear = next((o for o in ops if o.kind == "linear"), None)
    if op in (pool, linear) and pool and linear and pool.out_channels == linear.in_channels:
        return f"Logits-input:{pool.height}x{pool.width}x{pool.in_channels}-output:{linear.out_channels}"
    raise ProxylessYamlError(f"{op.key}: the official table has no entry for such a layer.")


def _ops(key: str) -> tuple[OpSpec, ...]:
    """The operators of a key; none if it has not the form, or an output or a residual that they would not have."""
    try:
        if found := _BLOCK.fullmatch(key):
            height, width, channels, *output, expand, kernel, stride, skip = map(int, found.groups())
            block = OpSpec(
                kind="mbconv",
                height=height,
                width=width,
                in_channels=channels,
                out_channels=output[2],
                kernel=kernel,
                stride=stride,
                expand=expand,
            )
            return (block,) if _answers(block, output) and block.residual == bool(skip) else ()
        if found := _LAYER.fullmatch(key):
            height, width, channels, *output = map(int, found.groups()[1:])
            conv = OpSpec(
                kind="conv",
                height=height,
                width=width,
                in_channels=channels,
                out_channels=output[2],
                kernel=STEM_KERNEL if found[1] == "Conv" else 1,
                stride=-(-height // max(1, output[0])),
            )
            return (conv,) if _answers(conv, output) else ()
        if found := _LOGITS.fullmatch(key):
            height, width, channels, classes = map(int, found.groups())
            return (
                OpSpec(kind="pool", height=height, width=width, in_channels=channels, out_channels=channels),
                OpSpec(kind="linear", height=1, width=1, in_channels=channels, out_channels=classes),
            )
    except ValueError:  # a size that no operator has
        return ()
    return ()


def _answers(op: OpSpec, output: list[int]) -> bool:
    return [op.out_height, op.out_width] == output[:2]
