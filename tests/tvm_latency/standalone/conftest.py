"""A small network in the plain C form, for any target."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from targets.target import Target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.opspec import WeightType
from tvm_latency.standalone.write import SelfTest, probe_input, write_standalone

SIZE = 33
Write = Callable[..., Compiled]


@pytest.fixture(scope="session")
def write(mobile_network: Callable[[int], onnx.ModelProto]) -> Write:
    """Compile it for a target, write it into a folder, and answer what was compiled."""
    model = mobile_network(SIZE)
    image = probe_input((1, 3, SIZE, SIZE))
    (expected,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: image})

    def written(target: Target, folder: Path, weights: WeightType = "float32") -> Compiled:
        half = 3e-2 * float(np.abs(expected).max())
        allowed = 1e-4 if weights == "float32" else 1e-2 if target.dtype == "float32" else half
        compiled = compile_onnx(model, target, weights)
        write_standalone(compiled, folder, "small", SelfTest(expected, allowed))
        return compiled

    return written
