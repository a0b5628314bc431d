"""Emulated instructions of one inference on another machine, of our plain C form.

python -m benchmarks.arm_instructions [--nets mobilenet_v2] [--targets android-arm64,raspberry-pi-5]
    [--dtypes float32,float16]

Beside them loads, stores, and misses of simulated caches of the target's sizes. The output is compared with the ONNX
reference's. Instructions are not time: these figures say how much work code makes.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.networks import macs, network_model
from benchmarks.results import save_results
from pipeline.agreement import onnx_reference, tolerance
from targets.emulated import EmulatedRunner
from targets.registry import get_target
from targets.runner import Failure, Job
from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.standalone.write import NETBENCH, SelfTest, probe_input, write_standalone

DEADLINE_S = 120.0
WHAT = ("instructions", "loads", "stores", "l1_misses", "l2_misses", "macs")


def of_one_inference(net: str, target: Target) -> dict[str, int]:
    """What netbench, which compares its output itself, executes for one more inference."""
    model, dtype = network_model(net), target.stored
    expected = onnx_reference(model)(probe_input((1, 3, 224, 224)))
    test = SelfTest(expected, tolerance(model, dtype, dtype) * max(1.0, float(np.abs(expected).max())))
    with TemporaryDirectory() as name:
        write_standalone(compile_onnx(model, target, dtype), Path(name), net, test)
        (found,) = EmulatedRunner(target, DEADLINE_S, caches=True).run([[Job(key=net, module=Path(name) / NETBENCH)]])
    if isinstance(found, Failure):
        raise SystemExit(f"{net} on {target.name}: {found.reason}")
    return {**found.counts, "macs": macs(model)}


def main() -> None:
    """Count, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="mobilenet_v2")
    parser.add_argument("--targets", default="android-arm64,raspberry-pi-5")
    parser.add_argument("--dtypes", default="float32,float16", help="float16 is left out where a target has none")
    options = parser.parse_args()
    rows = []
    machines, dtypes = map(get_target, options.targets.split(",")), options.dtypes.split(",")
    for target in (m.with_dtype(d) for m in machines for d in dtypes if d == "float32" or m.float16 is not None):
        for net in options.nets.split(","):
            row = {"net": net, "target": asdict(target), **of_one_inference(net, target)}
            rows.append(row)
            counts = ", ".join(f"{row[what] / 1e6:.2f} M {what.replace('_', ' ')}" for what in WHAT)
            print(f"{net} on {target.name} in {target.dtype}, emulated: {counts}", flush=True)
    print(f"written to {save_results('arm_instructions', get_target('x86'), {'rows': rows})}")


if __name__ == "__main__":
    main()
