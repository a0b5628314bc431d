"""MobileNetV2 by our kernels, by TVM's own compile without them, and by ONNX Runtime, timed in turn on one core.

python -m benchmarks.against_tvm [--net NAME]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter

import onnx
import tvm
from tvm.relax.frontend.onnx import from_onnx

from benchmarks.results import save_results
from pipeline.bench import BenchEntry, speedup, time_interleaved
from pipeline.runtimes import BenchModel
from supernet.named import named_architecture
from targets.registry import get_target
from targets.target import Target
from targets.toolchain import find_toolchain
from tvm_latency.build import compile_onnx
from tvm_latency.onnx_graph import network_graph


def compile_by_tvm_alone(model: onnx.ModelProto, target: Target, path: Path) -> Path:
    """What `tvm.compile` makes of the model with its default pipeline."""
    module = from_onnx(model, keep_params_in_input=False)
    executable = tvm.compile(module, tvm.target.Target(target.tvm_attributes()))
    executable.export_library(str(path), fcompile=find_toolchain(target))
    return path


def main() -> None:
    """Compile, time, print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mobilenet_v2")
    net = named_architecture(parser.parse_args().net)
    target = get_target("x86")
    model = network_graph(net.op_specs())
    with TemporaryDirectory() as folder:
        onnx_file, ours, alone = (Path(folder) / name for name in ("net.onnx", "ours.so", "alone.so"))
        onnx.save(model, onnx_file)
        start = perf_counter()
        compile_onnx(model, target).export(ours)
        compile_s = perf_counter() - start
        compile_by_tvm_alone(model, target, alone)
        entries = [
            BenchEntry(net.name, runtime, BenchModel(onnx_file=str(onnx_file), library=str(library)))
            for runtime, library in (("netlathe", ours), ("netlathe", alone), ("onnxruntime", ours))
        ]
        shape = (1, 3, net.resolution, net.resolution)
        timings = time_interleaved(entries, shape, threads=1, rounds=12, calls=5)
    labels = ("netlathe", "tvm.compile without our kernels", "onnxruntime")
    for label, timing in zip(labels, timings):
        ratio = speedup(timings[0], timing)
        print(f"{label:32} median {1e3 * median(timing.samples_s):8.3f} ms   {ratio:6.2f} times ours")
    print(f"compile and link: {compile_s:.2f} s")
    figures = {
        "net": net.name,
        "compile_s": compile_s,
        "medians_ms": {label: 1e3 * median(t.samples_s) for label, t in zip(labels, timings)},
        "times_ours": {label: speedup(timings[0], t) for label, t in zip(labels, timings)},
        "samples_s": {label: t.rounds_s for label, t in zip(labels, timings)},
    }
    print(f"written to {save_results('against_tvm', target, figures)}")


if __name__ == "__main__":
    main()
