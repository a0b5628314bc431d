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

from targets.toolchain import ToolchainError  # noqa: E402
from tvm_latency.builders import BUILD_JOB  # noqa: E402
from tvm_latency.candidate import build_candidate  # noqa: E402
from tvm_latency.lower import LoweringError  # noqa: E402
from tvm_latency.standalone.write import StandaloneError  # noqa: E402

# The parent enforces the deadline; the alarm only ends a child whose parent was killed.
ALARM_MARGIN_S = 5


def serve(jobs: TextIO, replies: TextIO) -> None:
    """Answer each line of `jobs` with a line of `replies`, until the input ends."""
    for line in jobs:
        job = BUILD_JOB.validate_json(line)
        signal.alarm(math.ceil(job.deadline_s) + ALARM_MARGIN_S)
        try:
            build_candidate(job.ops, job.target, job.form, job.path)
        except (LoweringError, StandaloneError, ToolchainError) as error:
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
