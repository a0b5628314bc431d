"""Every distinct kernel of a network, warm, against the bound that the machine sets it.

python -m benchmarks.kernel_table [--net mobilenet_v2] [--target x86] [--threads 1]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from tvm import tirx

from benchmarks.networks import network_model
from benchmarks.pinned import pinned
from benchmarks.roofline import SAMPLES, Roofline, TimedFunction, fma_loop, measure_roofline
from pipeline.agreement import random_image
from pipeline.nets import input_shape_of
from targets.registry import get_target
from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.loaded import LoadedNetwork
from tvm_latency.lower import lower
from tvm_latency.schedules.kernel import BlockSpec, PoolSpec, Spec

FALLBACK = "fallback"
# Of the network after every kernel, beside one that is not timed.
NETWORK_CALLS = 10


def kernel_figures(model: onnx.ModelProto, target: Target, roofline: Roofline) -> dict[str, Any]:
    """A row for each distinct kernel, the dearest first, their sums, and the network between them.

    Runs in this process, which must be pinned to `target.threads` cores and use as many threads. Of a row, `calls` is
    how often the network calls it, `warm_s` one call with data where the last call left them, `traffic` the bytes of
    all its arguments, `flops` those of its multiply-adds (None for TVM's own loops). A clock moves by more than kernels
    differ from their bounds, so the peak is measured again for each, in turns with it: `peak_flops`. So is the network,
    a few calls after every kernel: `network_ms` compares with `kernels_warm_ms` also where the machine has slowed down
    since it was timed with others.
    """
    lowered = lower(model, target)
    specs = dict(zip(lowered.kernels, lowered.specs))
    peak, peak_arrays, peak_flops = fma_loop(target, roofline.chains)
    peak_loop = TimedFunction(peak, peak_arrays, target)
    with TemporaryDirectory() as folder:
        network = LoadedNetwork(compile_onnx(model, target).export(Path(folder) / "network.so"))
    call = network.bind(random_image(input_shape_of(model)))
    rows: list[dict[str, Any]] = []
    network_s: list[float] = []
    for name, calls in Counter(lowered.calls).items():
        func = lowered.module[name]
        arrays = [_random(parameter) for parameter in func.params]
        kernel = TimedFunction(func, arrays, target)
        turns = [(kernel.sample(), peak_loop.sample()) for _ in range(SAMPLES)]
        network_s += [_seconds(call) for _ in range(1 + NETWORK_CALLS)][1:]
        warm_s, peak_s = median(warm for warm, _ in turns), min(peak for _, peak in turns)
        now = replace(roofline, flops=peak_flops / peak_s)
        spec, traffic = specs.get(name), sum(array.nbytes for array in arrays)
        flops = None if spec is None else _flops(spec)
        bound_s = now.bound_s(flops or 0, traffic, target.l2_bytes)
        rows.append(
            {
                "kernel": name,
                "kind": FALLBACK if spec is None else name.partition("_n")[0],
                "shape": name if spec is None else shape_of(spec),
                "calls": calls,
                "warm_s": warm_s,
                "flops": flops,
                "traffic": traffic,
                "peak_flops": now.flops,
                "bound_s": bound_s,
                "share_of_bound": bound_s / warm_s,
            }
        )
    return {
        "kernels": sorted(rows, key=lambda row: -row["calls"] * row["warm_s"]),
        "kernels_warm_ms": 1e3 * sum(row["calls"] * row["warm_s"] for row in rows),
        "kernels_bound_ms": 1e3 * sum(row["calls"] * row["bound_s"] for row in rows),
        "network_ms": 1e3 * median(network_s),
        "peak_flops": median(row["peak_flops"] for row in rows),
        "fallbacks": [row["kernel"] for row in rows if row["kind"] == FALLBACK],
    }


def _seconds(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _random(parameter: tirx.Var) -> np.ndarray:
    shape = tuple(int(size) for size in parameter.ty.shape)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(str(parameter.ty.dtype))


def _flops(spec: Spec) -> int:
    """A mean adds every pixel; all else multiplies and adds. Epilogues do not count, as they do not in MACs."""
    if isinstance(spec, PoolSpec):
        return spec.batch * spec.height * spec.width * spec.channels
    return 2 * spec.macs


def shape_of(spec: Spec) -> str:
    """What a reader wants to know of an operator: `56x56 24->144 k1 s1`; `14x14 96->576->96 k3 s1 + x` for a block."""
    if isinstance(spec, PoolSpec):
        return f"{spec.height}x{spec.width} {spec.channels}"
    convs = spec.convolutions if isinstance(spec, BlockSpec) else (spec,)
    first, last, widest = convs[0], convs[-1], max(convs, key=lambda conv: conv.kernel)
    channels = [first.in_channels, *(conv.out_channels for conv in convs if conv.groups == 1)]
    stride = max(conv.stride for conv in convs)
    text = f"{first.height}x{first.width} {'->'.join(map(str, channels))} k{widest.kernel[0]} s{stride}"
    return f"{text} + x" if last.residual else text


def print_figures(figures: dict[str, Any], threads: int) -> None:
    """The table as text."""
    print(f"{'calls':>5} {'us':>8} {'GFLOP/s':>8} {'KiB':>8} {'bound us':>8} {'of it':>6}  kernel")
    for row in figures["kernels"]:
        rate = f"{row['flops'] / row['warm_s'] / 1e9:8.1f}" if row["flops"] else f"{'-':>8}"
        print(
            f"{row['calls']:5} {1e6 * row['warm_s']:8.1f} {rate} {row['traffic'] / 1024:8.0f} "
            f"{1e6 * row['bound_s']:8.1f} {row['share_of_bound']:6.0%}  {row['kind']} {row['shape']}"
        )
    warm, bound, network = (figures[name] for name in ("kernels_warm_ms", "kernels_bound_ms", "network_ms"))
    print(
        f"all calls, warm: {warm:.3f} ms; their bounds: {bound:.3f} ms; "
        f"the network between them: {network:.3f} ms, {network / warm:.2f} times as long; {threads} thread(s)"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mobilenet_v2")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    target = get_target(options.target).with_threads(options.threads)
    roofline = pinned(target.threads, measure_roofline, target)
    figures = pinned(target.threads, kernel_figures, network_model(options.net), target, roofline)
    print_figures(figures, target.threads)


if __name__ == "__main__":
    main()
