"""Emulated instructions of one inference on 64-bit ARM: ours, and other runtimes' aarch64 wheels, under one emulator.

bash benchmarks/arm_root.sh ROOT
python -m benchmarks.arm_instructions --root ROOT [--nets mobilenet_v2] [--target android-arm64] [--against NAME,...]

A count is that of a program with some inferences less that of one with fewer, so that nothing of its start counts.
Outputs are compared with PyTorch's. Instructions are not time: these figures rank nothing but how much work code makes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx

from benchmarks.networks import network_model
from benchmarks.results import save_results
from pipeline.agreement import onnx_reference, tolerance
from pipeline.files import read_json
from pipeline.peers.layers import read_layers
from pipeline.peers.ncnn import convert
from pipeline.peers.tflite import to_tflite
from targets.registry import get_target
from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.standalone.write import NETBENCH, SelfTest, probe_input, write_standalone

HERE = Path(__file__).parent
FEW, MORE = 1, 3
DEADLINE_S = 1800.0


def counted(words: Sequence[str], target: Target, folder: Path, library_root: Path | None = None) -> dict[str, int]:
    """What a program executes under the target's emulator."""
    plugin, out = folder / "qemu_count.so", folder / "counts.json"
    if not plugin.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", HERE / "qemu_count.c", "-o", plugin], check=True)
    root = ["-L", str(library_root)] if library_root else []
    command = [*target.emulator, *root, "-plugin", f"{plugin},out={out}", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}): {done.stderr[-2000:]}")
    return read_json(out) or {}


def of_one_inference(few: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Counts of one of the inferences that `more` has beyond `few`."""
    return {name: (more[name] - few[name]) // (MORE - FEW) for name in few}


def ours(model: onnx.ModelProto, target: Target, folder: Path, test: SelfTest) -> dict[str, Any]:
    """Of netbench, which compares its output itself."""
    write_standalone(compile_onnx(model, target), folder, "mobilenet", test)
    words = [str(folder / NETBENCH), "--min_secs=0", "--warmup_runs=0"]
    few, more = (counted([*words, f"--num_runs={runs}"], target, folder) for runs in (FEW, MORE))
    return {"runtime": "netlathe", **of_one_inference(few, more)}


def model_for(runtime: str, model: onnx.ModelProto, folder: Path, shape: tuple[int, ...]) -> str:
    """The file, or the name without its endings, that the runtime loads."""
    file = folder / "net.onnx"
    onnx.save(model, file)
    if runtime == "ncnn":
        return str(convert(file, folder)[0].with_suffix(""))
    if runtime == "litert":
        (folder / "net.tflite").write_bytes(to_tflite(read_layers(model, runtime), shape))
        return str(folder / "net.tflite")
    return str(file)


def theirs(
    runtime: str, model: onnx.ModelProto, target: Target, folder: Path, test: SelfTest, root: Path
) -> dict[str, Any]:
    """Of a Python of the machine with the runtime's wheel."""
    shape = tuple(d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim)
    image, output = folder / "image.npy", folder / "output.npy"
    np.save(image, probe_input(shape))
    python = [str(root / "root/usr/bin/python3.11"), "-E", "-c", _WITH_SITE.format(site=root / "site", script=_SCRIPT)]
    words = [*python, runtime, model_for(runtime, model, folder, shape), str(image), str(output)]
    few, more = (counted([*words, str(runs)], target, folder, root / "root") for runs in (FEW, MORE))
    error = float(np.abs(np.load(output).reshape(-1) - test.expected.reshape(-1)).max())
    if not error <= test.tolerance:
        raise SystemExit(f"{runtime} is off by {error}")
    return {"runtime": runtime, "max_abs_error": error, **of_one_inference(few, more)}


_SCRIPT = HERE / "arm_peer.py"
_WITH_SITE = "import sys, runpy; sys.path.insert(0, '{site}'); runpy.run_path('{script}', run_name='__main__')"


def main() -> None:
    """Count, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--nets", default="mobilenet_v2")
    parser.add_argument("--target", default="android-arm64")
    parser.add_argument("--against", default="onnxruntime,ncnn,litert")
    options = parser.parse_args()
    target, rows = get_target(options.target), []
    for name in options.nets.split(","):
        model = network_model(name)
        expected = onnx_reference(model)(probe_input((1, 3, 224, 224)))
        test = SelfTest(expected, tolerance(model) * max(1.0, float(np.abs(expected).max())))
        with TemporaryDirectory() as folder:
            found = [ours(model, target, Path(folder), test)]
            for runtime in filter(None, options.against.split(",")):
                found.append(theirs(runtime, model, target, Path(folder), test, options.root.resolve()))
        for row in found:
            ratio = found[0]["instructions"] / row["instructions"]
            rows.append({"net": name, **row, "ours_over_it": ratio})
            print(
                f"{name} {row['runtime']:12} {row['instructions'] / 1e6:9.1f} M emulated instructions, "
                f"{row['loads'] / 1e6:.1f} M loads, {row['stores'] / 1e6:.1f} M stores; ours are {ratio:.3f} of them",
                flush=True,
            )
    print(f"written to {save_results('arm_instructions', target, {'rows': rows})}")
    sys.exit(0)


if __name__ == "__main__":
    main()
