"""Ours against PyTorch, torch.compile, ONNX Runtime and TensorRT, on a GPU that is somewhere else.

python -m benchmarks.gpu_runtimes build FOLDER [--nets mobilenet_v2] [--batches 1,8] [--dtypes float32,tf32,float16]
cd FOLDER && python3 there.py                   # on the GPU's machine: NumPy, and what is to be compared with
python -m benchmarks.gpu_runtimes read FOLDER   # here, with results.json brought back

The folder needs no compiler and no Netlathe there. All runtimes have the same weights and the same image, and their
outputs are compared. Times are the device's, by events, and each call's, copies included; in turns. Kernels are timed
one by one, too, and stand beside the floors of memory and arithmetic.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from shutil import copyfile
from statistics import median
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from benchmarks.results import save_results
from pipeline.agreement import tolerance
from pipeline.files import read_json, write_json
from pipeline.verify import pytorch, random_network
from supernet.export import fold_batch_norm, to_onnx
from supernet.named import named_architecture
from supernet.network import Network
from targets.registry import get_target
from targets.target import DTYPE_BYTES
from tvm_latency.compiled import compile_network
from tvm_latency.opspec import FLOAT_BYTES, OpSpec
from tvm_latency.standalone.write import SelfTest, probe_input, write_netbench

THERE = Path(__file__).with_name("gpu_runtimes_there.py")
NETS, JOB, RESULTS = ("mobilenet_v2",), "job.json", "results.json"
# Of an H200, by its data sheet: bytes a second, and operations a second in float32 and on matrix units.
MEMORY, FLOPS = 4.8e12, {"float32": 67e12, "tf32": 495e12, "float16": 990e12}
# What is promised: the least times as fast as the best of torch.compile by batch, and kernels' time over their floor.
LEAST_SPEEDUP, MOST_OVER_FLOOR = {1: 1.5, 8: 1.2}, {8: 3.0}
LARGEST_ERROR = {"float32": 1e-3, "tf32": 1e-2, "float16": 1e-2}


def build(options: argparse.Namespace) -> None:
    """Write everything that goes to the machine."""
    folder: Path = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    cases, weights = [], {}
    for name in options.nets.split(","):
        architecture = named_architecture(name)
        network = random_network(architecture)
        arrays = arrays_of(network)
        (folder / f"{name}.weights").write_bytes(b"".join(array.tobytes() for array in arrays))
        weights[name] = [array.shape for array in arrays]
        for batch in map(int, options.batches.split(",")):
            model, ops = to_onnx(network, architecture, batch), architecture.op_specs(batch)
            image = probe_input((batch, 3, architecture.resolution, architecture.resolution))
            expected = pytorch(network)(image)
            onnx.save(without_weights(model, arrays, f"{name}.weights"), folder / f"{name}-{batch}.onnx")
            np.save(folder / f"{name}-{batch}.expected.npy", expected)
            for dtype in options.dtypes.split(","):
                target = get_target(options.target).with_batch(batch).with_dtype(dtype)
                allowed = tolerance(model, target.stored, target.dtype) * max(1.0, float(np.abs(expected).max()))
                program = f"{name}-{batch}-{dtype}"
                compiled = compile_network(model, target, target.stored)
                write_netbench(compiled, folder / program, SelfTest(expected, allowed))
                cases.append(
                    {"net": name, "batch": batch, "dtype": dtype, "program": program, "ops": [asdict(op) for op in ops]}
                )
                print(f"{program}: {(folder / program).stat().st_size / 1e6:.1f} MB")
    write_json(folder / JOB, {"target": options.target, "weights": weights, "cases": cases})
    copyfile(THERE, folder / "there.py")
    total = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {total / 1e6:.1f} MB. There: `python3 there.py` in it; then bring {RESULTS} back.")


def arrays_of(network: Network) -> list[np.ndarray]:
    """Weights and biases in the order in which the operators use them, batch norm folded."""
    layers = [m for m in fold_batch_norm(network).modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    return [value.detach().numpy() for layer in layers for value in (layer.weight, layer.bias) if value is not None]


def without_weights(model: onnx.ModelProto, arrays: list[np.ndarray], location: str) -> onnx.ModelProto:
    """The model, whose weights are those of a file that has the arrays one after the other."""
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    starts = dict(zip((array.tobytes() for array in arrays), accumulate((a.nbytes for a in arrays), initial=0)))
    for tensor in bare.graph.initializer:
        data = numpy_helper.to_array(tensor).tobytes()
        if data in starts:
            set_external_data(tensor, location, starts[data], len(data))
            tensor.ClearField("raw_data")
    return bare


def floors_ms(ops: list[OpSpec], dtype: Any) -> tuple[float, float]:
    """What the network would take if nothing but memory, and nothing but arithmetic, took time."""
    shrink = DTYPE_BYTES[dtype] / FLOAT_BYTES
    moved = sum(op.weight_bytes + op.activation_bytes for op in ops) * shrink
    return 1e3 * moved / MEMORY, 1e3 * sum(op.flops for op in ops) / FLOPS[dtype]


def read(options: argparse.Namespace) -> None:
    """Print what came back, save it, and exit with 1 if a promise was broken."""
    files = options.folder / RESULTS, options.folder / JOB
    found, job = (read_json(file) if file.exists() else None for file in files)
    if found is None or job is None:
        sys.exit(f"{files[0]} is not there: run `python3 there.py` in the folder on the GPU's machine.")
    promises: dict[str, bool] = {}
    for case, row in zip(job["cases"], found["cases"], strict=True):
        batch, dtype, name = case["batch"], case["dtype"], f"{case['net']}, batch {case['batch']}, {case['dtype']}"
        print(f"\n{name}\n{'runtime':40} device ms   call ms   largest error")
        medians = {}
        for runtime, times in row["runtimes"].items():
            if "failed" in times:
                print(f"{runtime:40} {times['failed']}")
                continue
            medians[runtime] = median(times["device_ms"])
            call, error = median(times["call_ms"]), times["max_abs_error"]
            print(f"{runtime:40} {medians[runtime]:9.4f} {call:9.4f}   {error:.2g}")
            if runtime == "netlathe":
                promises[f"{name}: error"] = error <= LARGEST_ERROR[dtype] * max(1.0, row["largest_output"])
        ops = [OpSpec(**op) for op in case["ops"]]
        memory, arithmetic = floors_ms(ops, dtype)
        print(f"{'kernels one by one':40} {row['kernels_ms']:9.4f}   floors {memory:.4f} and {arithmetic:.4f}")
        peers = [value for runtime, value in medians.items() if runtime.startswith("torch.compile")]
        if case["net"] == "mobilenet_v2" and batch in LEAST_SPEEDUP and peers and dtype != "float16":
            promises[f"{name}: speed"] = min(peers) >= LEAST_SPEEDUP[batch] * medians["netlathe"]
        if batch in MOST_OVER_FLOOR:
            promises[f"{name}: floor"] = row["kernels_ms"] <= MOST_OVER_FLOOR[batch] * max(memory, arithmetic)
    print("".join(f"\n{'kept  ' if kept else 'BROKEN'} {promise}" for promise, kept in promises.items()))
    where = save_results("gpu_runtimes", get_target(job["target"]), {"promises": promises, **found}, options.variant)
    print(f"\nwritten to {where}")
    sys.exit(0 if all(promises.values()) else 1)


def main() -> None:
    """Build a folder, or read what it came back with."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["build", "read"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--nets", default=",".join(NETS))
    parser.add_argument("--batches", default="1,8")
    parser.add_argument("--dtypes", default="float32,float16")
    parser.add_argument("--target", default="cuda-sm90")
    parser.add_argument("--variant", default="", help="what tells the file of results from others")
    options = parser.parse_args()
    (build if options.step == "build" else read)(options)


if __name__ == "__main__":
    main()
