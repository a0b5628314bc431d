"""Run an exported library in this process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import relax


class LoadedNetwork:
    """A library that `Compiled.export` wrote, as a function of one float32 array."""

    def __init__(self, path: Path) -> None:
        """Load it; the weights are inside."""
        self._device = tvm.cpu()
        self._machine = relax.VirtualMachine(tvm.runtime.load_module(str(path)), self._device)
        self._main = self._machine["main"]

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output for `image`, both in the layout of the ONNX model."""
        output: NDArray[np.float32] = self.bind(image)().numpy()
        return output

    def bind(self, image: NDArray[np.float32]) -> Callable[[], Any]:
        """One inference of `image` without converting it again; the answer is TVM's tensor."""
        return partial(self._main, tvm.runtime.tensor(image, self._device))
