"""BuilderPool: builds candidates on all cores, in child processes that may crash or hang without harm."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType

from pydantic import TypeAdapter

from targets.child import Child, ChildEnded
from targets.target import Target
from tvm_latency.opspec import OpSpec

# A large network takes seconds, on a busy machine half a minute.
DEADLINE_S = 300.0
# Each child holds TVM and LLVM: some 400 MB.
MOST_WORKERS = 8


@dataclass(frozen=True)
class BuildJob:
    """Operators to run in sequence, for which machine, and where the shared library goes."""

    ops: tuple[OpSpec, ...]
    target: Target
    path: Path


BUILD_JOB = TypeAdapter(BuildJob)


class BuilderPool:
    """Builds operators for a target; called from `workers` threads at once, it builds in as many processes."""

    def __init__(
        self, target: Target, workers: int, deadline_s: float = DEADLINE_S, environ: Mapping[str, str] = os.environ
    ) -> None:
        self.workers = min(workers, MOST_WORKERS)
        self._target, self._deadline_s, self._environ = target, deadline_s, environ
        self._idle: SimpleQueue[Child | None] = SimpleQueue()
        for _ in range(self.workers):
            self._idle.put(None)

    def __call__(self, ops: Sequence[OpSpec], path: Path) -> Path | str:
        """A shared library at `path`, or why there is none; see `workbench.Build`."""
        child = self._idle.get()
        try:
            child = child or Child(["-m", "tvm_latency.build_child"], self._environ)
            child.send(BUILD_JOB.dump_python(BuildJob(tuple(ops), self._target, path.resolve()), mode="json"))
            failure = child.receive(self._deadline_s).get("failure")
        except ChildEnded as end:
            failure = f"the process that built it {end}"
            if child is not None:
                child.close()
                child = None
        finally:
            self._idle.put(child)
        return str(failure) if failure else path

    def __enter__(self) -> BuilderPool:
        """The pool itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all children, whatever they are doing."""
        for _ in range(self.workers):
            child = self._idle.get()
            if child is not None:
                child.close()
