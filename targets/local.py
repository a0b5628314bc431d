"""LocalRunner: measures on this machine, in a child process that may crash or hang without harm."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence

from targets.child import Child, ChildEnded
from targets.host import available_cpus, detect_host
from targets.runner import Failure, Form, Job, RunnerError, Timing
from targets.target import Target

# Loading the runtime takes about a second; a cold disk may take far longer.
START_DEADLINE_S = 120.0


class LocalRunner:
    """Measures on this machine, in child processes that are pinned to as many cores as threads.

    A job that crashes, raises or takes longer than `deadline_s` becomes a Failure; the rest run in a new child.

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
        self._cpus = cpus[-target.threads :]
        self._deadline_s = deadline_s
        self._environ = {
            **environ,
            "TVM_NUM_THREADS": str(target.threads),
            # TVM would bind its threads to CPUs of its own choice, outside the mask that is set here.
            "TVM_BIND_THREADS": "0",
            "TVM_USE_RUNTIME_LIB": "1",
        }

    form: Form = "library"
    at_once = True

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        """See `Runner.run`. A pass has a process of its own.

        Raises:
            RunnerError: the measuring process does not start.
        """
        right, failed = set[str](), set[str]()
        for jobs in passes:
            child: Child | None = None
            try:
                for job in jobs:
                    if job.key in failed:
                        continue
                    child = child or self._start()
                    try:
                        samples_s = self._measure(child, job, check=job.key not in right)
                    except ChildEnded as end:
                        child.close()
                        child = None
                        failed.add(job.key)
                        yield Failure(job.key, str(end))
                    else:
                        right.add(job.key)
                        yield Timing(job.key, samples_s)
            finally:
                if child is not None:
                    child.close()

    def _start(self) -> Child:
        child = Child(["-m", "targets.local_child", *map(str, self._cpus)], self._environ)
        try:
            child.receive(START_DEADLINE_S)
        except ChildEnded as end:
            child.close()
            raise RunnerError(
                f"The measuring process did not start: {end}. Run `netlathe doctor` to check the installation."
            ) from end
        return child

    def _measure(self, child: Child, job: Job, *, check: bool) -> tuple[float, ...]:
        child.send(
            {
                "module": str(job.module.resolve()),
                "input_shapes": job.input_shapes,
                "repeats": job.repeats,
                "warmup": job.warmup,
                "evict_bytes": job.evict_bytes,
                "answer": str(job.answer.resolve()) if job.answer and check else None,
                "deadline_s": self._deadline_s,
            }
        )
        samples_s = child.receive(self._deadline_s).get("samples_s", [])
        if len(samples_s) != job.repeats or not all(0 < sample < self._deadline_s for sample in samples_s):
            raise ChildEnded(f"answered what are no {job.repeats} times: {str(samples_s)[:80]}")
        return tuple(samples_s)
