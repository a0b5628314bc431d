"""The process that a `BuilderPool` builds in: a `BuildJob` a line in; a line out that says how it went.

It catches what says why something cannot be built. Anything else ends the process, and the next job has a new one.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from typing import TextIO

# TVM's Python layer imports torch when it can, which takes longer than all the rest and serves nothing here.
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402

from targets.toolchain import ToolchainError  # noqa: E402
from tvm_latency.build import compile_onnx  # noqa: E402
from tvm_latency.builders import BUILD_JOB, BuildJob  # noqa: E402
from tvm_latency.expected import expected_output  # noqa: E402
from tvm_latency.lower import LoweringError  # noqa: E402
from tvm_latency.onnx_graph import input_shape, network_graph  # noqa: E402

# The parent enforces the deadline; the alarm only ends a child whose parent was killed.
ALARM_MARGIN_S = 5
# The share of the largest output by which a candidate may miss what NumPy answers: far more than rounding moves it, far
# less than a wrong kernel does.
TOLERANCE = {"float32": 1e-3, "float16": 3e-2}


def build(job: BuildJob) -> None:
    """Write the shared library, and beside it, ending in .npz, what it must answer (see `targets.runner.Job`).

    Raises:
        LoweringError, ToolchainError: it cannot be built.
    """
    model, first = network_graph(job.ops), job.ops[0]
    compile_onnx(model, job.target, first.dtype).export(job.path)
    image = np.random.default_rng(0).standard_normal(input_shape(first), dtype=np.float32)
    output = expected_output(model, image)
    np.savez(job.path.with_suffix(".npz"), input=image, output=output, tolerance=TOLERANCE[first.dtype])


def serve(jobs: TextIO, replies: TextIO) -> None:
    """Answer each line of `jobs` with a line of `replies`, until the input ends."""
    for line in jobs:
        job = BUILD_JOB.validate_json(line)
        signal.alarm(math.ceil(job.deadline_s) + ALARM_MARGIN_S)
        try:
            build(job)
        except (LoweringError, ToolchainError) as error:
            failure = str(error)
        else:
            failure = ""
        signal.alarm(0)
        print(json.dumps({"failure": failure}), file=replies, flush=True)


if __name__ == "__main__":
    # What a compiler prints must not mix with the replies, so standard output moves aside and becomes standard error.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        serve(sys.stdin, replies)
