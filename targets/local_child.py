"""The process that `LocalRunner` measures in: jobs in, times out, one JSON object a line.

It imports the runtime of TVM and nothing else, and catches nothing: a job that raises ends the process after its
message is sent, so that no job runs in the debris of another.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, TextIO

# TVM's Python layer imports torch when it can, which takes longer than all the rest and serves nothing here.
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tvm  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from tvm.runtime.vm import VirtualMachine  # noqa: E402

EVICT = "netlathe.evict"
Array = NDArray[np.float32]
# The parent enforces the deadline; the alarm only ends a child whose parent was killed.
ALARM_MARGIN_S = 5


def evictor(cpus: set[int], evict_bytes: int, inputs: Sequence[Array]) -> Callable[..., None]:
    """A function that reads and writes a buffer of `evict_bytes` once on every CPU, and then its share of the inputs.

    That many bytes pass through the caches of each. How much of what was there before they push out is up to the
    machine: less than all where the caches together are larger, or replace other lines than the oldest. The inputs
    come last, because in a network the operator before has just written them.
    """
    buffer = np.zeros(evict_bytes // 4, dtype=np.float32)
    shares = {cpu: [np.array_split(array, len(cpus))[turn] for array in inputs] for turn, cpu in enumerate(cpus)}

    def evict(*_: object) -> None:
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            np.add(buffer, 1, out=buffer)
        for cpu in cpus:
            os.sched_setaffinity(0, {cpu})
            for array in shares[cpu]:
                np.multiply(array, 1, out=array)
        os.sched_setaffinity(0, cpus)

    return evict


class WrongAnswerError(ValueError):
    """The module computes something else than it should."""


def check_answer(machine: VirtualMachine, path: str, device: Any) -> dict[str, object]:
    """Compare what `main` answers with what the file says; see `Job.answer`. The fields of an `Answer`.

    Raises:
        WrongAnswerError: they differ by more than rounding explains.
    """
    with np.load(path) as answer:
        expected, allowed = answer["output"], float(answer["tolerance"] * np.abs(answer["output"]).max())
        machine.set_input("main", tvm.runtime.tensor(answer["input"], device))
    machine.invoke_stateful("main")
    output = machine.get_outputs("main").numpy()
    worst = float(np.abs(output - expected).max()) if output.shape == expected.shape else math.inf
    # Not the other way round: NaN is no number below any.
    if not worst <= allowed:
        raise WrongAnswerError(f"its output is off by {worst:.3g}, and rounding explains {allowed:.2g}")
    return {"max_abs_error": worst, "same_top1": bool(output.argmax() == expected.argmax())}


def measure(job: dict[str, Any], cpus: set[int]) -> dict[str, object]:
    """`samples_s`: seconds of each timed call of `main` on random inputs of a fixed seed; and how right it is."""
    rng = np.random.default_rng(0)
    machine = VirtualMachine(tvm.runtime.load_module(job["module"]), tvm.cpu())
    answer = check_answer(machine, job["answer"], tvm.cpu()) if job["answer"] else None
    inputs = [tvm.runtime.tensor(rng.standard_normal(shape, dtype=np.float32)) for shape in job["input_shapes"]]
    machine.set_input("main", *inputs)
    if job["evict_bytes"]:
        flat = [np.asarray(np.from_dlpack(tensor), np.float32).reshape(-1) for tensor in inputs]
        tvm.register_global_func(EVICT, evictor(cpus, job["evict_bytes"], flat), override=True)
    # `invoke_stateful` keeps one result and frees the one before; a function that answers its result would have every
    # result kept until the end, and each call would pay for fresh pages.
    time = machine.time_evaluator(
        "invoke_stateful",
        tvm.cpu(),
        number=1,
        repeat=job["warmup"] + job["repeats"],
        f_preproc=EVICT if job["evict_bytes"] else "",
    )
    return {"samples_s": [float(sample) for sample in time("main").results[job["warmup"] :]], "answer": answer}


def serve(jobs: TextIO, replies: TextIO, cpus: set[int]) -> None:
    """Answer each line of `jobs` with a line of `replies`, until the input ends."""

    def reply(message: dict[str, object]) -> None:
        print(json.dumps(message), file=replies, flush=True)

    def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        reply({"error": f"{kind.__name__}: {error}"})

    sys.excepthook = report
    os.sched_setaffinity(0, cpus)
    reply({"threads": tvm.runtime.num_threads()})
    for line in jobs:
        job = json.loads(line)
        signal.alarm(math.ceil(job["deadline_s"]) + ALARM_MARGIN_S)
        found = measure(job, cpus)
        signal.alarm(0)
        reply(found)


if __name__ == "__main__":
    # What a module prints must not mix with the replies, so standard output moves aside and becomes standard error.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)
        serve(sys.stdin, replies, {int(cpu) for cpu in sys.argv[1:]})
