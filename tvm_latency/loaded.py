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


def load_main(path: Path) -> Callable[..., Any]:
    """`main` of an exported library, a function of TVM's tensors."""
    main: Callable[..., Any] = relax.VirtualMachine(tvm.runtime.load_module(str(path)), tvm.cpu())["main"]
    return main


class LoadedNetwork:
    """A library that `Compiled.export` wrote, as a function of one float32 array."""

    def __init__(self, path: Path) -> None:
        """Load it; the weights are inside."""
        self._main = load_main(path)

    def __call__(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's output for `image`, both in the layout of the ONNX model."""
        output: NDArray[np.float32] = self.bind(image)().numpy()
        return output

    def bind(self, image: NDArray[np.float32]) -> Callable[[], Any]:
        """One inference of `image` without converting it again; the answer is TVM's tensor."""
        return partial(self._main, tvm.runtime.tensor(image))
