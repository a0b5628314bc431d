"""What `--tune` adds: analytic against tuned tiles, kernel by kernel and for whole networks, timed in turn on one core.

python -m benchmarks.tuning [--nets mobilenet_v2,proxyless_gpu] [--tune 12]
"""

from __future__ import annotations

import argparse
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import onnx

from benchmarks.results import save_results
from pipeline.artefacts import silent
from pipeline.bench import BenchEntry, speedup, time_interleaved
from pipeline.measure import code_versions
from pipeline.runtimes import BenchModel
from pipeline.tuning import tuned
from supernet.named import named_architecture
from targets.local import LocalRunner
from targets.target import Target, get_target
from tvm_latency.build import compile_onnx
from tvm_latency.database import MeasurementDatabase
from tvm_latency.lower import lower
from tvm_latency.onnx_graph import network_graph
from tvm_latency.tune import tune


def compare(name: str, target: Target, folder: Path) -> dict[str, Any]:
    """One network, tuned from nothing; the analytic build is timed twice, which shows what is noise."""
    net = named_architecture(name)
    model = network_graph(net.op_specs())
    start = perf_counter()
    with closing(MeasurementDatabase(folder / f"{name}.sqlite")) as database:
        chosen = tuned(target, [model], database, silent)
        tune_s = perf_counter() - start
        # Everything is measured: this reads the seconds behind the choices.
        choices = tune(
            lower(model, target).specs,
            target,
            runner=LocalRunner(target),
            database=database,
            versions=code_versions(),
            workspace=folder,
            progress=silent,
        )
    builds = {"analytic": target, "analytic again": target, "tuned": chosen}
    onnx_file = folder / f"{name}.onnx"
    onnx.save(model, onnx_file)
    models = [
        BenchModel(
            onnx_file=str(onnx_file), library=str(compile_onnx(model, machine).export(folder / f"{name}-{i}.so"))
        )
        for i, machine in enumerate(builds.values())
    ]
    entries = [BenchEntry(net.name, "netlathe", model) for model in models]
    shape = (1, 3, net.resolution, net.resolution)
    timings = dict(zip(builds, time_interleaved(entries, shape, threads=1, rounds=20, calls=20)))
    ratios = {kernel: choices[kernel].seconds / choices[kernel].analytic_s for kernel in chosen.tuned_tiles}
    print(f"{name}: tuned {len(choices)} kernels in {tune_s:.0f} s, {len(ratios)} have another tile")
    for kernel, ratio in sorted(ratios.items(), key=lambda entry: entry[1]):
        print(f"  {kernel:75} {1e6 * choices[kernel].analytic_s:7.1f} us  x {ratio:.2f}  {choices[kernel].tile}")
    for label, timing in timings.items():
        ratio = speedup(timings["analytic"], timing)
        print(f"  {label:16} median {1e3 * median(timing.samples_s):.3f} ms   {ratio:.3f} times analytic")
    return {
        "net": name,
        "tune_s": tune_s,
        "kernels": {kernel: asdict(choice) for kernel, choice in choices.items()},
        "medians_ms": {label: 1e3 * median(timing.samples_s) for label, timing in timings.items()},
        "times_analytic": {label: speedup(timings["analytic"], timing) for label, timing in timings.items()},
        "samples_s": {label: timing.rounds_s for label, timing in timings.items()},
    }


def main() -> None:
    """Tune, compile, time, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="mobilenet_v2,proxyless_gpu")
    parser.add_argument("--tune", type=int, default=12)
    options = parser.parse_args()
    target = get_target("x86").with_tiles(options.tune)
    with TemporaryDirectory() as folder:
        rows = [compare(name, target, Path(folder)) for name in options.nets.split(",")]
    print(f"written to {save_results('tuning', target, {'tune': options.tune, 'nets': rows})}")


if __name__ == "__main__":
    main()
