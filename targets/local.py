"""LocalRunner: measures on this machine, in a child process that may crash or hang without harm."""

from __future__ import annotations

import os
from collections.abc import Mapping

from targets.child_runner import ChildRunner
from targets.host import available_cpus, detect_host
from targets.runner import RunnerError
from targets.target import Target


class LocalRunner(ChildRunner):
    """Measures in processes that are pinned to as many cores as threads, one for each pass.

    Raises:
        RunnerError: this machine cannot run code for the target.
    """

    def __init__(self, target: Target, deadline_s: float = 30.0, environ: Mapping[str, str] = os.environ) -> None:
        cpus = available_cpus()
        host_bits = detect_host().vector_bits
        if target.kind != "x86" or target.vector_bits > host_bits:
            raise RunnerError(
                f"Code for {target.name} cannot run on this machine: it needs {target.vector_bits}-bit vectors of "
                f"{target.mcpu}, and this CPU has {host_bits}-bit x86 vectors. Measure on a machine that has them."
            )
        if target.threads > len(cpus):
            raise RunnerError(
                f"{target.name} is set to {target.threads} threads, and this process may use {len(cpus)} physical "
                "cores. Ask for fewer threads."
            )
        # Low-numbered CPUs serve most interrupts.
        pinned = cpus[-target.threads :]
        environ = {
            **environ,
            "TVM_NUM_THREADS": str(target.threads),
            # TVM would bind its threads to CPUs of its own choice, outside the mask that is set here.
            "TVM_BIND_THREADS": "0",
            "TVM_USE_RUNTIME_LIB": "1",
        }
        super().__init__(["-m", "targets.local_child", *map(str, pinned)], environ, deadline_s)
