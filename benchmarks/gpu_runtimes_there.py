"""The part of `benchmarks.gpu_runtimes` that runs beside the GPU: Python, NumPy, and whoever of the others is there.

python3 there.py [--rounds 5] [--seconds 1]

It goes on where it stopped, writes results.json, and changes no clock.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results.json"
WARMUP = 10
QUERY = "name,driver_version,clocks.sm,clocks.mem,temperature.gpu,power.draw"

# A runtime: times one round, as (device milliseconds, call milliseconds) of each inference; and its output.
Round = Callable[[float], tuple[list[float], list[float]]]
Runtime = tuple[Round, Callable[[], np.ndarray]]


def smi() -> str:
    """What the driver says of the GPU at this moment."""
    words = ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    try:
        return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def probe_input(shape: tuple[int, ...]) -> np.ndarray:
    """The image that netbench tests itself with."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint32)
    numbers = (index * np.uint32(2654435761) >> 16).astype(np.float32) / 32768 - 1
    return np.asarray(numbers.reshape(shape))


def netbench(program: str, *options: str) -> dict[str, Any]:
    """What netbench says, which has compared its own output first."""
    words = [str(FOLDER / program), "--json", "--samples", "--warmup_runs=10", *options]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip() or f"netbench ended with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def weights_of(net: str) -> Iterator[np.ndarray]:
    """Weights and biases of its layers, in order."""
    values, start = np.fromfile(FOLDER / f"{net}.weights", np.float32), 0
    for shape in json.loads((FOLDER / "job.json").read_text())["weights"][net]:
        size = int(np.prod(shape))
        yield values[start : start + size].reshape(shape)
        start += size


def network_of(case: dict[str, Any], device: str = "cuda") -> Any:
    """The network in PyTorch, channels last."""
    import torch
    from torch import nn

    arrays = weights_of(case["net"])

    def filled(layer: Any) -> Any:
        layer.weight.data, layer.bias.data = torch.from_numpy(next(arrays)), torch.from_numpy(next(arrays))
        return layer

    def conv(i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> Any:
        return filled(nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups))

    class Block(nn.Module):
        def __init__(self, op: dict[str, Any]) -> None:
            super().__init__()
            i, o = op["in_channels"], op["out_channels"]
            hidden = op["hidden"] or i * op["expand"]
            layers = [conv(i, hidden), nn.ReLU6()] if op["expand"] > 1 or op["hidden"] else []
            layers += [conv(hidden, hidden, op["kernel"], op["stride"], hidden), nn.ReLU6(), conv(hidden, o)]
            self.layers, self.residual = nn.Sequential(*layers), op["stride"] == 1 and i == o

        def forward(self, x: Any) -> Any:
            y = self.layers(x)
            return x + y if self.residual else y

    layers: list[Any] = []
    for op in case["ops"]:
        if op["kind"] == "conv":
            layers += [conv(op["in_channels"], op["out_channels"], op["kernel"], op["stride"]), nn.ReLU6()]
        elif op["kind"] == "mbconv":
            layers.append(Block(op))
        elif op["kind"] == "pool":
            layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        else:
            layers.append(filled(nn.Linear(op["in_channels"], op["out_channels"])))
    dtype = torch.float16 if case["dtype"] == "float16" else torch.float32
    network: Any = nn.Sequential(*layers).eval()
    return network.to(device, dtype).to(memory_format=torch.channels_last)


def times(seconds: float, image: np.ndarray, x: Any, run: Callable[[], Any]) -> tuple[list[float], list[float]]:
    """Milliseconds of the device and of the call, of each inference; `run` computes with x, in torch's stream."""
    import torch

    event: Any = torch.cuda.Event
    device: list[float] = []
    call: list[float] = []
    until = time.perf_counter() + seconds
    while not device or time.perf_counter() < until:
        start, end = (event(enable_timing=True) for _ in range(2))
        begin = time.perf_counter()
        x.copy_(torch.from_numpy(image))
        start.record()
        y = run()
        end.record()
        y.float().cpu()
        call.append(1e3 * (time.perf_counter() - begin))
        device.append(start.elapsed_time(end))
    return device, call


def onnx_session(case: dict[str, Any], provider: str, options: dict[str, Any]) -> Any:
    """ONNX Runtime with the network, all of it on that provider."""
    import onnxruntime

    model = str(FOLDER / f"{case['net']}-{case['batch']}.onnx")
    settings = onnxruntime.SessionOptions()
    if provider != "CPUExecutionProvider":
        settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = onnxruntime.InferenceSession(model, settings, providers=[(provider, options)])
    if session.get_providers()[0] != provider:
        raise RuntimeError(f"{provider} does not start; ONNX Runtime says why above.")
    return session


def onnx_runtime(case: dict[str, Any], image: np.ndarray, provider: str, options: dict[str, Any]) -> Runtime:
    """ONNX Runtime in a stream of torch's, whose events tell its time."""
    import onnxruntime
    import torch

    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    session = onnx_session(case, provider, {**options, "user_compute_stream": str(stream.cuda_stream)})
    classes = case["ops"][-1]["out_channels"]
    x, y = torch.from_numpy(image).to("cuda"), torch.empty(len(image), classes, device="cuda")
    binding, settings = session.io_binding(), onnxruntime.RunOptions()
    # Else a call returns when all is computed, and the second event is recorded late.
    settings.add_run_config_entry("disable_synchronize_execution_providers", "1")
    (given,), (answer,) = session.get_inputs(), session.get_outputs()
    binding.bind_input(given.name, "cuda", 0, np.float32, tuple(x.shape), x.data_ptr())
    binding.bind_output(answer.name, "cuda", 0, np.float32, tuple(y.shape), y.data_ptr())

    def run() -> Any:
        session.run_with_iobinding(binding, settings)
        return y

    def timed(seconds: float) -> tuple[list[float], list[float]]:
        with torch.cuda.stream(stream):
            return times(seconds, image, x, run)

    def output() -> np.ndarray:
        with torch.cuda.stream(stream):
            return np.asarray(run().cpu().numpy())

    for _ in range(WARMUP):
        output()
    return timed, output


def torch_runtime(case: dict[str, Any], image: np.ndarray, mode: str, tf32: bool) -> Runtime:
    """PyTorch, eager, as a CUDA graph, or compiled as far as it can."""
    import torch

    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = True
    network = network_of(case)
    dtype = next(network.parameters()).dtype
    x = torch.from_numpy(image).to("cuda", dtype).to(memory_format=torch.channels_last)
    run = torch.compile(network, mode="max-autotune") if mode == "compile" else network
    with torch.inference_mode():
        for _ in range(WARMUP):
            run(x)
        torch.cuda.synchronize()
        if mode == "graph":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = network(x)

            def run(_: Any) -> Any:
                graph.replay()
                return y

    @torch.inference_mode()
    def timed(seconds: float) -> tuple[list[float], list[float]]:
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        return times(seconds, image, x, lambda: run(x))

    @torch.inference_mode()
    def output() -> np.ndarray:
        return np.asarray(run(x).float().cpu().numpy())

    return timed, output


def runtimes_of(case: dict[str, Any], image: np.ndarray) -> dict[str, Callable[[], Runtime]]:
    """Who is compared, by what starts them."""
    found: dict[str, Callable[[], Runtime]] = {}
    try:
        import torch
    except ImportError:
        return found
    if not torch.cuda.is_available():
        return found
    names = {"eager": "torch", "graph": "torch, CUDA graph", "compile": "torch.compile, max-autotune"}
    for tf32 in (False,) if case["dtype"] == "float16" else (False, True):
        for mode, name in names.items():
            label = f"{name}, TF32" if tf32 else name
            found[label] = partial(torch_runtime, case, image, mode, tf32)
    return found | onnx_runtimes(case, image)


def onnx_runtimes(case: dict[str, Any], image: np.ndarray) -> dict[str, Callable[[], Runtime]]:
    """Those that ONNX Runtime has. Its own kernels are for the model's float32; TensorRT converts it."""
    try:
        import onnxruntime
    except ImportError:
        return {}
    there, half = onnxruntime.get_available_providers(), case["dtype"] == "float16"
    found: dict[str, Callable[[], Runtime]] = {}
    if "CUDAExecutionProvider" in there and not half:
        for tf32 in (False, True):
            options = {"use_tf32": str(int(tf32)), "enable_cuda_graph": "1"}
            label = "onnxruntime, CUDA graph" + (", TF32" if tf32 else "")
            found[label] = partial(onnx_runtime, case, image, "CUDAExecutionProvider", options)
    if "TensorrtExecutionProvider" in there:
        options = {"trt_fp16_enable": str(half), "trt_cuda_graph_enable": "True"}
        label = "TensorRT, CUDA graph" + ("" if half else ", TF32")
        found[label] = partial(onnx_runtime, case, image, "TensorrtExecutionProvider", options)
    return found


def compare(case: dict[str, Any], rounds: int, seconds: float) -> dict[str, Any]:
    """All runtimes in turns."""
    batch, size = case["batch"], case["ops"][0]["height"]
    image = probe_input((batch, 3, size, size))
    expected = np.load(FOLDER / f"{case['net']}-{batch}.expected.npy")
    rows: dict[str, dict[str, Any]] = {"netlathe": {"device_ms": [], "call_ms": []}}
    started: dict[str, Runtime] = {}
    for name, start in runtimes_of(case, image).items():
        print(f"  {name}", flush=True)
        try:
            started[name] = start()
            error = float(np.abs(started[name][1]() - expected).max())
            rows[name] = {"device_ms": [], "call_ms": [], "max_abs_error": error}
        except Exception as error:  # noqa: BLE001  (whatever a runtime raises, the others are compared)
            rows[name] = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    profile = netbench(case["program"], "--profile", "--num_runs=50", "--min_secs=0")
    clocks = [smi()]
    for _ in range(rounds):
        found = netbench(case["program"], "--num_runs=50", f"--min_secs={seconds}")
        rows["netlathe"]["device_ms"] += [1e3 * sample for sample in found["samples_s"]]
        rows["netlathe"]["call_ms"].append(found["call_median_ms"])
        rows["netlathe"]["max_abs_error"] = found["max_abs_error"]
        for name, (timed, _) in started.items():
            device, call = timed(seconds)
            rows[name]["device_ms"] += device
            rows[name]["call_ms"] += call
        clocks.append(smi())
    kernels = {operator["name"]: operator["mean_ms"] for operator in profile["operators"]}
    return {
        "runtimes": rows,
        "largest_output": float(np.abs(expected).max()),
        "kernels_ms": sum(operator["mean_ms"] for operator in profile["operators"]),
        "kernels": kernels,
        "clocks": clocks,
    }


def main() -> None:
    """Every case of job.json that has no result yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    job = json.loads((FOLDER / "job.json").read_text())
    results: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"cases": []}
    results["machine"] = {"gpu": smi(), "python": platform.python_version(), "system": platform.platform()}
    if "torch" in sys.modules or runtimes_of(job["cases"][0], np.zeros(0)):
        import torch

        results["machine"]["torch"] = torch.__version__
    for case in job["cases"][len(results["cases"]) :]:
        (FOLDER / case["program"]).chmod(0o755)
        print(f"{case['net']}, batch {case['batch']}, {case['dtype']}", flush=True)
        results["cases"].append(compare(case, options.rounds, options.seconds))
        RESULTS.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
