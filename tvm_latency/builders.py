"""BuilderPool: builds candidates on all cores, in child processes that may crash or hang without harm."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from targets.child import Child, ChildEnded
from targets.runner import Form
from targets.target import Target
from tvm_latency.opspec import OpSpec

# A large network takes seconds, on a busy machine half a minute.
DEADLINE_S = 300.0
# Each child holds TVM and LLVM: some 400 MB.
MOST_WORKERS = 8


@dataclass(frozen=True)
class BuildJob:
    """Operators to run in sequence, for which machine, where what runs goes, and how long building may take."""

    ops: tuple[OpSpec, ...]
    target: Target
    form: Form
    path: Path
    deadline_s: float


BUILD_JOB = TypeAdapter(BuildJob)


class BuilderPool:
    """Builds candidates for a target in `workers` processes at once; see `workbench.Build`.

    They end with the iteration, however that ends: nothing is left that takes memory or a core from a measurement.
    """

    def __init__(
        self,
        target: Target,
        form: Form,
        workers: int,
        deadline_s: float = DEADLINE_S,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._target, self._form, self._deadline_s, self._environ = target, form, deadline_s, environ
        self._workers = min(workers, MOST_WORKERS)
        self._children: list[Child] = []
        self._thread = threading.local()

    def __call__(self, wanted: Mapping[str, tuple[Sequence[OpSpec], Path]]) -> Iterator[tuple[str, Path | str]]:
        """For each key its path, when what runs is there, or why it is not; as they come."""
        try:
            with ThreadPoolExecutor(self._workers) as threads:
                building = {threads.submit(self._build, ops, path): key for key, (ops, path) in wanted.items()}
                try:
                    for finished in as_completed(building):
                        yield building[finished], finished.result()
                finally:
                    threads.shutdown(wait=False, cancel_futures=True)
                    # A copy: a thread that is told takes its child out.
                    for child in tuple(self._children):
                        child.kill()
        finally:
            self._thread = threading.local()
            while self._children:
                self._children.pop().close()

    def _build(self, ops: Sequence[OpSpec], path: Path) -> Path | str:
        child: Child | None = getattr(self._thread, "child", None)
        if child is None:
            child = self._thread.child = Child(["-m", "tvm_latency.build_child"], self._environ)
            self._children.append(child)
        job = BuildJob(tuple(ops), self._target, self._form, path.resolve(), self._deadline_s)
        try:
            child.send(BUILD_JOB.dump_python(job, mode="json"))
            failure = child.receive(self._deadline_s).get("failure")
        except ChildEnded as end:
            self._children.remove(child)
            child.close()
            self._thread.child = None
            return f"the process that built it {end}"
        return str(failure) if failure else path
