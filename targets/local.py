"""LocalRunner: measures on this machine, in a child process that may crash or hang without harm."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from targets.host import available_cpus, detect_host
from targets.runner import Failure, Job, RunnerError, Timing
from targets.target import Target

# Loading the runtime takes about a second; a cold disk may take far longer.
START_DEADLINE_S = 120.0

_PACKAGE_PARENT = Path(__file__).resolve().parents[1]


class _ChildEnded(Exception):  # noqa: N818  (an event of the protocol, not an error a user sees)
    """The child is gone; the message says how."""


class _Child:
    """A running `targets.local_child`, spoken to by lines."""

    def __init__(self, cpus: Sequence[int], environ: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self._process = subprocess.Popen(
            # The working directory makes sure that `targets` is this package and not a folder of the user's.
            [sys.executable, "-m", "targets.local_child", *map(str, cpus)],
            cwd=_PACKAGE_PARENT,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def send(self, message: Mapping[str, object]) -> None:
        """Write one line."""
        assert self._process.stdin is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise _ChildEnded(self._how_it_ended()) from error

    def receive(self, deadline_s: float) -> dict[str, Any]:
        """The next line. Raises _ChildEnded when there is none in time or the child reports an error."""
        try:
            line = self._lines.get(timeout=deadline_s)
        except queue.Empty:
            raise _ChildEnded(f"took longer than {deadline_s:g} s") from None
        if line is None:
            raise _ChildEnded(self._how_it_ended())
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise _ChildEnded(reply["error"])
        return reply

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{how}: {said[-1]}" if said else how

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                # A line that a dead child never took is still in the buffer, and closing tries to send it again.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


class LocalRunner:
    """Measures on this machine, one child process for a batch of jobs, pinned to as many cores as threads.

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

    def run(self, jobs: Sequence[Job], rounds: int = 1) -> Iterator[Timing | Failure]:
        """See `Runner.run`.

        Raises:
            RunnerError: the measuring process does not start.
        """
        child: _Child | None = None
        samples: dict[str, tuple[float, ...]] = {job.key: () for job in jobs}
        try:
            for turn in range(rounds):
                for job in [job for job in jobs if job.key in samples]:
                    child = child or self._start()
                    try:
                        samples[job.key] += self._measure(child, job)
                    except _ChildEnded as end:
                        child.close()
                        child = None
                        del samples[job.key]
                        yield Failure(job.key, str(end))
                    else:
                        if turn == rounds - 1:
                            yield Timing(job.key, samples[job.key])
        finally:
            if child is not None:
                child.close()

    def _start(self) -> _Child:
        child = _Child(self._cpus, self._environ)
        try:
            child.receive(START_DEADLINE_S)
        except _ChildEnded as end:
            child.close()
            raise RunnerError(
                f"The measuring process did not start: {end}. Run `netlathe doctor` to check the installation."
            ) from end
        return child

    def _measure(self, child: _Child, job: Job) -> tuple[float, ...]:
        child.send(
            {
                "module": str(job.module.resolve()),
                "input_shapes": job.input_shapes,
                "repeats": job.repeats,
                "warmup": job.warmup,
                "evict_bytes": job.evict_bytes,
                "deadline_s": self._deadline_s,
            }
        )
        return tuple(child.receive(self._deadline_s)["samples_s"])
