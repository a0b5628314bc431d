"""Emulated instructions of one inference on another machine, of our plain C form.

python -m benchmarks.arm_instructions [--nets mobilenet_v2] [--targets android-arm64,raspberry-pi-5]

A count is that of a program with some inferences less that of one with fewer, so that nothing of its start counts. The
output is compared with the ONNX reference's. Instructions are not time: these figures say how much work code makes.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.networks import macs, network_model
from benchmarks.results import save_results
from pipeline.agreement import onnx_reference, tolerance
from pipeline.files import read_json
from targets.registry import get_target
from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.standalone.write import NETBENCH, SelfTest, probe_input, write_standalone

PLUGIN = Path(__file__).with_name("qemu_count.c")
FEW, MORE = 1, 3
DEADLINE_S = 1800.0


def counted(words: Sequence[str], target: Target, folder: Path) -> dict[str, int]:
    """What a program executes under the target's emulator."""
    plugin, out = folder / "qemu_count.so", folder / "counts.json"
    if not plugin.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", PLUGIN, "-o", plugin], check=True)
    command = [*target.emulator, "-plugin", f"{plugin},out={out}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}): {done.stderr[-2000:]}")
    return read_json(out) or {}


def of_one_inference(net: str, target: Target) -> dict[str, int]:
    """What netbench, which compares its output itself, executes for one more inference."""
    model = network_model(net)
    expected = onnx_reference(model)(probe_input((1, 3, 224, 224)))
    test = SelfTest(expected, tolerance(model) * max(1.0, float(np.abs(expected).max())))
    with TemporaryDirectory() as name:
        folder = Path(name)
        write_standalone(compile_onnx(model, target), folder, net, test)
        words = [str(folder / NETBENCH), "--min_secs=0", "--warmup_runs=0"]
        few, more = (counted([*words, f"--num_runs={runs}"], target, folder) for runs in (FEW, MORE))
    return {**{what: (more[what] - few[what]) // (MORE - FEW) for what in few}, "macs": macs(model)}


def main() -> None:
    """Count, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default="mobilenet_v2")
    parser.add_argument("--targets", default="android-arm64,raspberry-pi-5")
    options = parser.parse_args()
    rows = []
    for target in map(get_target, options.targets.split(",")):
        for net in options.nets.split(","):
            row = {"net": net, "target": asdict(target), **of_one_inference(net, target)}
            rows.append(row)
            print(
                f"{net} on {target.name}: {row['instructions'] / 1e6:.1f} M emulated instructions for "
                f"{row['macs'] / 1e6:.1f} M multiply-accumulates",
                flush=True,
            )
    print(f"written to {save_results('arm_instructions', get_target('x86'), {'rows': rows})}")


if __name__ == "__main__":
    main()
