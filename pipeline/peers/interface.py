"""What `bench` asks of a runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.agreement import Images
from targets.target import DType
from tvm_latency.opspec import WeightType


class RuntimeUnavailableError(RuntimeError):
    """A runtime to compare with is unknown, is not installed, or cannot run the network."""


@dataclass(frozen=True)
class BenchModel:
    """One network in the forms that runtimes load.

    stored: how the library stores its weights; dtype: what it computes in.
    weights: PyTorch's state, with `architecture` as text; both empty where the network has no PyTorch form.
    """

    onnx_file: str
    library: str
    architecture: str = ""
    weights: str = ""
    stored: WeightType = "float32"
    dtype: DType = "float32"


@dataclass(frozen=True)
class Bound:
    """A network with its input already where the runtime wants it, so that a timed call is the inference alone.

    run: one inference; output: that of one inference, as an array.
    """

    run: Callable[[], object]
    output: Callable[[], NDArray[np.float32]]


class BenchRuntime(Protocol):
    """Something that runs a network: how it is called, and what it needs.

    packages: the importable names, each with what pip installs for it.
    """

    name: str
    packages: dict[str, str]

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Load the network for `threads` threads and give it its input.

        Raises:
            RuntimeUnavailableError: it cannot run this network, or something beyond its packages is missing.
        """
        ...
