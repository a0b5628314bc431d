"""NumPy's answer is what the compiled network answers."""

from __future__ import annotations

import numpy as np
import pytest
import tvm

from supernet.presets import DIGITS
from targets.registry import get_target
from tvm_latency.build import compile_onnx
from tvm_latency.expected import expected_output
from tvm_latency.onnx_graph import input_shape, network_graph
from tvm_latency.opspec import OpSpec

ODD = OpSpec(kind="mbconv", height=9, width=7, in_channels=12, out_channels=20, kernel=5, stride=2, expand=3, batch=2)
STEM = OpSpec(kind="conv", height=15, width=15, in_channels=3, out_channels=8, kernel=3, stride=2)


@pytest.mark.compiles
@pytest.mark.parametrize("ops", [(ODD,), (STEM,), DIGITS.baseline.op_specs()])
def test_it_is_what_the_compiled_network_answers(ops: tuple[OpSpec, ...]) -> None:
    model = network_graph(ops)
    image = np.random.default_rng(0).standard_normal(input_shape(ops[0]), dtype=np.float32)
    expected = expected_output(model, image)
    found = compile_onnx(model, get_target("x86")).load()(tvm.runtime.tensor(image)).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert expected.std() > 0
