"""The pinned process in which `bench` times runtimes in turn. Reads one JSON job from stdin, writes one JSON answer.

Run as `python -m pipeline.bench_child`; thread counts of the runtimes stand in its environment.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from pipeline.agreement import random_image, tolerance
from pipeline.runtimes import RUNTIMES, BenchModel, RuntimeUnavailableError

# A runtime's threads look for more work for some milliseconds before they sleep, on cores that the next one needs.
PAUSE_S = 0.1


def disagreement(outputs: Sequence[tuple[str, NDArray[np.float32]]], tolerance: float) -> str | None:
    """Which runtime's output of one network differs from the first one's beyond rounding; None if all agree.

    tolerance: the share of the largest output that rounding explains.
    """
    first_name, first = outputs[0]
    if not np.isfinite(first).all():
        return f"{first_name} answers with something that is not a finite number."
    allowed = tolerance * max(1.0, float(np.abs(first).max()))
    for name, output in outputs[1:]:
        worst = float(np.abs(output - first).max()) if output.shape == first.shape else float("inf")
        if not worst <= allowed:
            return f"{name} and {first_name} disagree by {worst:.3g}; rounding explains at most {allowed:.2g}."
    return None


def interleaved(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    calls: int,
    clock: Callable[[], float],
    pause: Callable[[], object] = lambda: None,
) -> list[list[list[float]]]:
    """Seconds of every call: [run][round][call]; in each round every run gets its calls, after one that is not timed.

    The order turns round from one round to the next, so that none always follows the same other. `pause` is called
    before every turn.
    """
    samples: list[list[list[float]]] = [[] for _ in runs]
    for number in range(rounds):
        order = range(len(runs)) if number % 2 == 0 else range(len(runs) - 1, -1, -1)
        for i in order:
            pause()
            runs[i]()
            timed = []
            for _ in range(calls):
                start = clock()
                runs[i]()
                timed.append(clock() - start)
            samples[i].append(timed)
    return samples


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Load, compare and time every entry of a job; `samples_s` of each, or `error` with a sentence."""
    entries = job["entries"]
    image = random_image(tuple(job["shape"]))
    runs: list[Callable[[], object]] = []
    outputs: dict[str, list[tuple[str, NDArray[np.float32]]]] = {}
    for entry in entries:
        try:
            bound = RUNTIMES[entry["runtime"]].prepare(BenchModel(**entry["model"]), job["threads"], image)
        except RuntimeUnavailableError as error:
            return {"error": str(error)}
        runs.append(bound.run)
        outputs.setdefault(entry["net"], []).append((entry["runtime"], bound.output()))
    for net, answers in outputs.items():
        models = [BenchModel(**entry["model"]) for entry in entries if entry["net"] == net]
        allowed = max(tolerance(onnx.load(model.onnx_file), model.stored, model.dtype) for model in models)
        if (difference := disagreement(answers, allowed)) is not None:
            return {"error": f"The runtimes do not compute the same for {net}: {difference}"}
    interleaved(runs, rounds=1, calls=job["warmup"], clock=time.perf_counter)
    pause = partial(time.sleep, PAUSE_S if job["threads"] > 1 else 0.0)
    return {"samples_s": interleaved(runs, job["rounds"], job["calls"], time.perf_counter, pause)}


def main() -> None:
    """Pin this process and do the job."""
    # What a runtime prints must not mix with the answer, so standard output moves aside and becomes standard error.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        job = json.load(sys.stdin)
        os.sched_setaffinity(0, job["cpus"])
        json.dump(work(job), answers)


if __name__ == "__main__":
    main()
