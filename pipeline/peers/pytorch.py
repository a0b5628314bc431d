"""PyTorch: eager, and compiled by Inductor."""

from __future__ import annotations

import os
from pathlib import Path
from shutil import which

import onnx

from pipeline.agreement import Images
from pipeline.peers.interface import BenchModel, Bound, RuntimeUnavailableError
from pipeline.peers.layers import read_layers


class PyTorch:
    """Eager PyTorch, channels-last."""

    name, packages = "torch", {"torch": "torch"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """The network that the ONNX file was exported from.

        Raises:
            RuntimeUnavailableError: the network came as an .onnx file and has no PyTorch form.
        """
        from pipeline.verify import bind_pytorch

        if not model.weights:
            raise RuntimeUnavailableError("PyTorch cannot run an .onnx file: leave `torch` out of --against.")
        return Bound(*bind_pytorch(model.architecture, Path(model.weights), threads, image))


class TorchCompile:
    """PyTorch compiled by Inductor for the CPU: channels-last, weights frozen so that they can be packed."""

    name, packages = "torch.compile", {"torch": "torch"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """The layers of the ONNX file as a module: batch norm is folded already.

        Raises:
            RuntimeUnavailableError: no C++ compiler, or an operator that has no module here.
        """
        from pipeline.peers.torch_layers import bind_compiled

        compiler = os.environ.get("CXX", "g++")
        if which(compiler) is None:
            raise RuntimeUnavailableError(
                f"torch.compile needs a C++ compiler, and there is no `{compiler}`. Install one (Debian: "
                "`apt install g++`) or name yours in CXX, or leave torch.compile out of --against."
            )
        return Bound(*bind_compiled(read_layers(onnx.load(model.onnx_file), self.name), threads, image))
