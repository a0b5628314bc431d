"""The process that `RpcRunner` measures through: jobs in, times out, one JSON object a line; see `targets.local_child`.

What it measures runs in the server's process; this one ends with the first job that fails.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

# TVM's Python layer imports torch when it can, which takes longer than all the rest and serves nothing here.
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tvm  # noqa: E402
from tvm import rpc  # noqa: E402
from tvm.runtime.vm import VirtualMachine  # noqa: E402

from targets.local_child import ALARM_MARGIN_S, check_answer  # noqa: E402
from targets.rpc import RETURN_S, SESSION_DEADLINES  # noqa: E402


class Board:
    """Sessions with a server, or with what a tracker has for the key, one after the other."""

    def __init__(self, host: str, port: int, key: str, threads: int, deadline_s: float) -> None:
        self._where, self._threads, self._lasts_s = (
            (host, port, key),
            threads,
            math.ceil(SESSION_DEADLINES * deadline_s),
        )
        self._session: Any = None
        self._begin, self._uploaded = 0.0, set[str]()

    def session(self) -> Any:
        """One that lasts long enough for a job.

        Raises:
            RuntimeError, OSError: there is no server.
        """
        if self._session is None or time.monotonic() - self._begin > self._lasts_s / 2:
            # The server serves one at a time.
            self._session = None
            self._session, self._begin = self._connect(), time.monotonic()
            self._uploaded.clear()
            # 1: the big cores.
            self._session.get_function("runtime.config_threadpool")(1, self._threads)
        return self._session

    def load(self, path: Path) -> Any:
        """A library, which is uploaded once in a session."""
        session = self.session()
        # Artefacts of different networks have files of the same name.
        name = f"{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.so"
        if name not in self._uploaded:
            session.upload(str(path), target=name)
            self._uploaded.add(name)
        return session.load_module(name)

    def _connect(self) -> Any:
        host, port, key = self._where
        end = time.monotonic() + RETURN_S
        while True:
            try:
                if key:
                    return rpc.connect_tracker(host, port).request(key, session_timeout=self._lasts_s, max_retry=1)
                return rpc.connect(host, port, session_timeout=self._lasts_s)
            except (RuntimeError, OSError):
                if time.monotonic() > end:
                    raise
                time.sleep(1.0)


def measure(job: dict[str, Any], board: Board, loaded: Callable[[], None]) -> dict[str, object]:
    """`samples_s`: seconds of each timed call of `main` on random inputs of a fixed seed; and how right it is.

    Memory that is to be evicted passes through the caches of the CPU that calls; unlike on this machine the inputs are
    cold then, too.
    """
    device = board.session().cpu()
    machine = VirtualMachine(board.load(Path(job["module"])), device)
    loaded()
    answer = check_answer(machine, job["answer"], device) if job["answer"] else None
    rng = np.random.default_rng(0)
    inputs = [tvm.runtime.tensor(rng.standard_normal(shape, dtype=np.float32), device) for shape in job["input_shapes"]]
    machine.set_input("main", *inputs)
    timed = machine.module.time_evaluator(
        "invoke_stateful",
        device,
        number=1,
        repeat=job["warmup"] + job["repeats"],
        cache_flush_bytes=job["evict_bytes"],
    )
    return {"samples_s": [float(sample) for sample in timed("main").results[job["warmup"] :]], "answer": answer}


def serve(jobs: TextIO, reply: Callable[[dict[str, object]], None], board: Board) -> None:
    """Answer each line of `jobs`, until the input ends."""
    for line in jobs:
        job = json.loads(line)

        def loaded(deadline_s: float = job["deadline_s"]) -> None:
            reply({"loaded": True})
            signal.alarm(math.ceil(deadline_s) + ALARM_MARGIN_S)

        found = measure(job, board, loaded)
        signal.alarm(0)
        reply(found)


def main(host: str, port: str, key: str, threads: str, deadline_s: str) -> None:
    """Connect, and serve what comes on standard input."""
    # What TVM prints must not mix with the replies, so standard output moves aside and becomes standard error.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)

        def reply(message: dict[str, object]) -> None:
            print(json.dumps(message), file=replies, flush=True)

        def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            # TVM's messages end with what matters.
            said = str(error).strip().splitlines() or [""]
            reply({"error": f"{kind.__name__}: {said[-1]}"})

        sys.excepthook = report
        board = Board(host, int(port), key, int(threads), float(deadline_s))
        board.session()
        reply({"threads": int(threads)})
        serve(sys.stdin, reply, board)


if __name__ == "__main__":
    main(*sys.argv[1:])
