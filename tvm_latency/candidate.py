"""A candidate, built so that a runner can time it: what runs, and what it must answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from targets.runner import Form
from targets.target import Target
from tvm_latency.compiled import compile_network
from tvm_latency.expected import expected_output
from tvm_latency.onnx_graph import input_shape, network_graph, random_signs, random_values
from tvm_latency.opspec import OpSpec
from tvm_latency.standalone.write import SelfTest, probe_input, write_netbench, write_plugin

# The share of the largest output by which a candidate may miss what NumPy answers: far more than rounding moves it, far
# less than a wrong kernel does.
TOLERANCE = {"float32": 1e-3, "float16": 3e-2}
# And of one that is computed in float16.
HALF_TOLERANCE = 0.1


def build_candidate(ops: Sequence[OpSpec], target: Target, form: Form, path: Path) -> None:
    """Write operators in sequence, with random weights, as what a runner of that form runs.

    A program or plugin has the answer inside; beside a shared library it stands in a file that ends in .npz (see
    `targets.runner.Job`).

    Raises:
        LoweringError, StandaloneError, ToolchainError: it cannot be built.
    """
    # What is carried to a GPU should pack well.
    values = random_signs(0) if form == "plugin" else random_values(0)
    model, first = network_graph(ops, values), ops[0]
    compiled = compile_network(model, target, first.dtype)
    tolerance = HALF_TOLERANCE if target.dtype == "float16" else TOLERANCE[first.dtype]
    if target.dtype == "tf32":
        # Factors are rounded as weights of float16 are, and sums are not.
        tolerance = TOLERANCE["float16"]
    if form != "library":
        expected = expected_output(model, probe_input(input_shape(first)))
        write = write_plugin if form == "plugin" else write_netbench
        write(compiled, path, SelfTest(expected, tolerance * float(np.abs(expected).max())))
        return
    compiled.export(path)
    image = np.random.default_rng(0).standard_normal(input_shape(first), dtype=np.float32)
    np.savez(path.with_suffix(".npz"), input=image, output=expected_output(model, image), tolerance=tolerance)
