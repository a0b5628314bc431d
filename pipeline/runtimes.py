"""The runtimes that `bench` compares: each takes a network and answers a function of one image."""

from __future__ import annotations

from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from pipeline.agreement import Images
from pipeline.peers.interface import BenchModel, BenchRuntime, Bound, RuntimeUnavailableError
from pipeline.peers.litert import LiteRt
from pipeline.peers.ncnn import Ncnn
from pipeline.peers.onnx_readers import OnnxRuntime, OpenVino
from pipeline.peers.pytorch import PyTorch, TorchCompile

__all__ = ["PEERS", "RUNTIMES", "BenchModel", "Netlathe", "RuntimeUnavailableError", "find_peers"]


class Netlathe:
    """What ships: the exported library on TVM's runtime."""

    name, packages = "netlathe", {"tvm": "apache-tvm"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Threads are those of the environment (TVM_NUM_THREADS), as for every TVM program."""
        from tvm_latency.loaded import LoadedNetwork

        network = LoadedNetwork(Path(model.library))
        return Bound(network.bind(image), lambda: network(image))


RUNTIMES: dict[str, BenchRuntime] = {
    "netlathe": Netlathe(),
    "onnxruntime": OnnxRuntime(),
    "openvino": OpenVino(),
    "ncnn": Ncnn(),
    "litert": LiteRt(),
    "torch": PyTorch(),
    "torch.compile": TorchCompile(),
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
        if missing := missing_packages(RUNTIMES[name]):
            raise RuntimeUnavailableError(
                f"{name} is not installed here. Install it with `pip install {' '.join(missing)}`, "
                "or leave it out of --against."
            )
    return [RUNTIMES[name] for name in dict.fromkeys(wanted)]


def missing_packages(runtime: BenchRuntime) -> list[str]:
    """What pip would have to install for a runtime."""
    return [install for module, install in runtime.packages.items() if find_spec(module) is None]
