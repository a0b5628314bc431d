"""Emulated instructions of one inference by other runtimes' aarch64 wheels, beside our plain C form.

sh benchmarks/arm_root.sh ROOT; sh benchmarks/arm_qemu.sh QEMU
python -m benchmarks.arm_peers ROOT [--qemu QEMU/qemu-aarch64] [--nets mobilenet_v2] [--target raspberry-pi-5]

A Python for 64-bit ARM runs the wheels under the emulator that runs our netbench, one thread each. A count is that of a
process with some inferences less that of one with fewer. Outputs are compared with the ONNX reference's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

from benchmarks.arm_instructions import of_one_inference
from benchmarks.networks import network_model
from benchmarks.results import save_results
from pipeline.agreement import onnx_reference, tolerance
from pipeline.files import read_json
from pipeline.peers import ncnn as ncnn_form
from pipeline.peers.layers import read_layers
from pipeline.peers.tflite import to_tflite
from targets.emulated import EmulatedRunner
from targets.registry import get_target
from targets.target import Target
from tvm_latency.standalone.write import probe_input

CHILD = Path(__file__).with_name("arm_peer_child.py")
RUNTIMES = ("onnxruntime", "ncnn", "litert")
# What starts a process varies by millions of instructions, which so many inferences make little of.
FEW, MORE = 2, 32
DEADLINE_S = 1800.0
# Ours should be so much of the best other.
SHARE = 0.9


def executed(words: Sequence[str], target: Target, plugin: Path) -> int:
    """Instructions of a whole process."""
    out = plugin.with_suffix(".json")
    out.unlink(missing_ok=True)
    command = [*target.emulator, "-plugin", f"{plugin},out={out}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    found = read_json(out) if out.exists() else None
    if done.returncode != 0 or found is None:
        raise RuntimeError(f"it ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return int(found["instructions"])


def of_peer(
    runtime: str, files: Path, image: np.ndarray, root: Path, target: Target, plugin: Path
) -> tuple[int, np.ndarray]:
    """Instructions of one inference by another runtime, and its output."""
    given, answer = files.with_suffix(".image.npy"), files.with_suffix(".output.npy")
    np.save(given, image)
    wheels = f"import sys, runpy; sys.path.insert(0, {str(root / 'site')!r})"
    start = f"{wheels}; runpy.run_path({str(CHILD)!r}, run_name='__main__')"
    python = ["-L", str(root / "root"), str(root / "root/usr/bin/python3.11"), "-E", "-c", start]
    few, more = (
        executed([*python, runtime, str(files), str(given), str(answer), str(calls)], target, plugin)
        for calls in (FEW, MORE)
    )
    return (more - few) // (MORE - FEW), np.load(answer)


def write_forms(model: onnx.ModelProto, folder: Path) -> Path:
    """The network in every form that a runtime reads; the path without their endings."""
    onnx.save(model, folder / "model.onnx")
    # Leaves a copy of the model as net.onnx.
    ncnn_form.convert(folder / "model.onnx", folder)
    shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
    (folder / "net.tflite").write_bytes(to_tflite(read_layers(model, "litert"), shape))
    return folder / "net"


def main() -> None:
    """Count, print, save; exit with 1 where ours is above 0.9 times the best other, or there is no other."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path)
    parser.add_argument("--qemu", default="qemu-aarch64")
    parser.add_argument("--nets", default="mobilenet_v2")
    parser.add_argument("--target", default="raspberry-pi-5")
    parser.add_argument("--runtimes", default=",".join(RUNTIMES))
    options = parser.parse_args()
    target = get_target(options.target)
    target = replace(target, emulator=(options.qemu, *target.emulator[1:]))
    rows = []
    for net in options.nets.split(","):
        model = network_model(net)
        image = probe_input((1, 3, 224, 224))
        expected = onnx_reference(model)(image)
        allowed = tolerance(model) * max(1.0, float(np.abs(expected).max()))
        row = {"net": net, "netlathe": of_one_inference(net, target)["instructions"]}
        print(f"{net}: netlathe {row['netlathe'] / 1e6:.1f} M emulated instructions", flush=True)
        with TemporaryDirectory() as name:
            files, plugin = write_forms(model, Path(name)), EmulatedRunner(target).plugin(Path(name))
            for runtime in options.runtimes.split(","):
                try:
                    count, output = of_peer(runtime, files, image, options.root.resolve(), target, plugin)
                except RuntimeError as error:
                    print(f"{net}: {runtime} cannot be counted: {error}", flush=True)
                    continue
                worst = float(np.abs(output - expected).max())
                if not worst <= allowed:
                    print(f"{net}: {runtime} answers something else, by {worst:.3g}", flush=True)
                    continue
                row[runtime] = count
                print(f"{net}: {runtime} {count / 1e6:.1f} M, {count / row['netlathe']:.2f} times ours", flush=True)
        rows.append(row)
    print(f"written to {save_results('arm_peers', get_target('x86'), {'target': asdict(target), 'rows': rows})}")
    best = [min((row[name] for name in RUNTIMES if name in row), default=0) for row in rows]
    sys.exit(0 if all(row["netlathe"] <= SHARE * other for row, other in zip(rows, best)) else 1)


if __name__ == "__main__":
    main()
