"""The runtimes that `bench` compares: each takes a network and answers a function of one image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.agreement import Images
from tvm_latency.opspec import WeightType


class RuntimeUnavailableError(RuntimeError):
    """A runtime to compare with is unknown, is not installed, or cannot run the network."""


@dataclass(frozen=True)
class BenchModel:
    """One network in the forms that runtimes load.

    stored: how the library stores its weights.
    weights: PyTorch's state, with `architecture` as text; both empty where the network has no PyTorch form.
    """

    onnx_file: str
    library: str
    architecture: str = ""
    weights: str = ""
    stored: WeightType = "float32"


@dataclass(frozen=True)
class Bound:
    """A network with its input already where the runtime wants it, so that a timed call is the inference alone.

    run: one inference; output: that of one inference, as an array.
    """

    run: Callable[[], object]
    output: Callable[[], NDArray[np.float32]]


class BenchRuntime(Protocol):
    """Something that runs a network: how it is called, and the package it needs."""

    name: str
    package: str

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Load the network for `threads` threads and give it its input."""
        ...


class Netlathe:
    """What ships: the exported library on TVM's runtime."""

    name, package = "netlathe", "tvm"

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Threads are those of the environment (TVM_NUM_THREADS), as for every TVM program."""
        from tvm_latency.loaded import LoadedNetwork

        network = LoadedNetwork(Path(model.library))
        return Bound(network.bind(image), lambda: network(image))


class OnnxRuntime:
    """ONNX Runtime's CPU provider with all graph optimisations."""

    name, package = "onnxruntime", "onnxruntime"

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Sequential execution, `threads` threads inside an operator."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(model.onnx_file, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, image)
        binding.bind_output(session.get_outputs()[0].name)

        def run() -> None:
            session.run_with_iobinding(binding)

        def output() -> NDArray[np.float32]:
            run()
            return np.asarray(binding.copy_outputs_to_cpu()[0], dtype=np.float32)

        return Bound(run, output)


class OpenVino:
    """OpenVINO's CPU plugin, for latency, in float32 as the others."""

    name, package = "openvino", "openvino"

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """One stream, `threads` threads; bfloat16, which it would choose on some machines, is off."""
        import openvino

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(model.onnx_file, "CPU", config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(image))
        return Bound(request.infer, lambda: np.array(request.infer()[0], dtype=np.float32))


class PyTorch:
    """Eager PyTorch, channels-last."""

    name, package = "torch", "torch"

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """The network that the ONNX file was exported from.

        Raises:
            RuntimeUnavailableError: the network came as an .onnx file and has no PyTorch form.
        """
        from pipeline.verify import bind_pytorch

        if not model.weights:
            raise RuntimeUnavailableError("PyTorch cannot run an .onnx file: leave `torch` out of --against.")
        return Bound(*bind_pytorch(model.architecture, Path(model.weights), threads, image))


RUNTIMES: dict[str, BenchRuntime] = {
    runtime.name: runtime for runtime in (Netlathe(), OnnxRuntime(), OpenVino(), PyTorch())
}
PEERS = tuple(name for name in RUNTIMES if name != Netlathe.name)


def find_peers(names: str) -> list[BenchRuntime]:
    """The runtimes of a comma-separated list, in its order; none for an empty text.

    Raises:
        RuntimeUnavailableError: an unknown name (with close matches), or a package that is not installed.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in PEERS:
            close = get_close_matches(name, PEERS, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise RuntimeUnavailableError(f"Unknown runtime {name!r}.{hint} Known: {', '.join(PEERS)}.")
        if find_spec(RUNTIMES[name].package) is None:
            raise RuntimeUnavailableError(
                f"{name} is not installed here. Install it with `pip install {RUNTIMES[name].package}`, "
                "or leave it out of --against."
            )
    return [RUNTIMES[name] for name in dict.fromkeys(wanted)]
