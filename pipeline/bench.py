"""Bench: several runtimes and networks timed in turn, in pinned processes, so that every comparison is fair."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from pipeline.runtimes import BenchModel
from targets.host import available_cpus
from targets.unit import MILLISECONDS, Unit

ROUNDS, CALLS, WARMUP = 30, 10, 10
# For the reason that `pipeline.measure` has as many.
PROCESSES = 5
DEADLINE_S = 600.0

_PACKAGE_PARENT = Path(__file__).resolve().parents[1]


class BenchError(RuntimeError):
    """The timing process failed, or the runtimes do not compute the same."""


@dataclass(frozen=True)
class BenchEntry:
    """One thing to time: a network on a runtime."""

    net: str
    runtime: str
    model: BenchModel


@dataclass(frozen=True)
class BenchTiming:
    """Seconds of every call, round by round: `rounds_s[round][call]`."""

    net: str
    runtime: str
    rounds_s: tuple[tuple[float, ...], ...]

    @property
    def samples_s(self) -> list[float]:
        """All calls in order."""
        return [sample for calls in self.rounds_s for sample in calls]

    def summary(self, unit: Unit = MILLISECONDS) -> dict[str, Any]:
        """What `bench --json` says about a runtime."""
        samples = 1e3 * np.array(self.samples_s)
        figures = {"median": np.median(samples), "min": samples.min(), "p90": np.percentile(samples, 90)}
        return {
            "runtime": self.runtime,
            **{f"{name}_{unit.key}": float(figure) for name, figure in figures.items()},
            "runs": len(samples),
        }


def speedup(ours: BenchTiming, other: BenchTiming) -> float:
    """How many times as fast `ours` is: the median over rounds of the ratio within a round, where both met the same."""
    return median(median(b) / median(a) for a, b in zip(ours.rounds_s, other.rounds_s, strict=True))


def time_interleaved(
    entries: Sequence[BenchEntry],
    shape: Sequence[int],
    threads: int,
    *,
    rounds: int = ROUNDS,
    calls: int = CALLS,
    processes: int = PROCESSES,
    deadline_s: float = DEADLINE_S,
    environment: Mapping[str, str] | None = None,
) -> list[BenchTiming]:
    """Time all entries for one random image of `shape` in child processes pinned to `threads` cores.

    processes: one after the other, of which each has its share of the rounds; deadline_s: of each; environment:
        variables for them, beyond their threads.

    Raises:
        BenchError: a process failed or took too long, or runtimes disagree about the output of a network.
    """
    job = {
        "entries": [asdict(replace(entry, model=_absolute(entry.model))) for entry in entries],
        "shape": list(shape),
        "threads": threads,
        "cpus": _cpus(threads),
        "calls": calls,
        "warmup": WARMUP,
    }
    shares = [len(range(number, rounds, processes)) for number in range(min(processes, rounds))]
    variables = dict.fromkeys(("OMP_NUM_THREADS", "TVM_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    # TVM would bind its threads to CPUs of its own choice, outside the mask that the child sets.
    variables["TVM_BIND_THREADS"] = "0"
    variables = {**os.environ, **variables, **(environment or {})}
    found = [_in_process({**job, "rounds": share}, variables, deadline_s) for share in shares]
    return [
        BenchTiming(entry.net, entry.runtime, tuple(tuple(calls) for rounds in samples for calls in rounds))
        for entry, *samples in zip(entries, *found, strict=True)
    ]


def _in_process(job: Mapping[str, Any], environment: Mapping[str, str], deadline_s: float) -> list[list[list[float]]]:
    """What `pipeline.bench_child` answers: seconds by entry, round and call.

    Raises:
        BenchError: it failed, took too long, or found that runtimes disagree.
    """
    try:
        done = subprocess.run(
            # The working directory makes sure that `pipeline` is this package and not a folder of the user's.
            [sys.executable, "-m", "pipeline.bench_child"],
            cwd=_PACKAGE_PARENT,
            input=json.dumps(job),
            capture_output=True,
            text=True,
            timeout=deadline_s,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise BenchError(
            f"Timing took more than {deadline_s:g} s and was stopped. Time fewer networks at once."
        ) from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise BenchError(f"The timing process ended with status {done.returncode}: {last}")
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise BenchError(answer["error"])
    samples_s: list[list[list[float]]] = answer["samples_s"]
    return samples_s


def compare_runtimes(timings: Sequence[BenchTiming], ours: str = "netlathe") -> dict[str, Any]:
    """The table of one network: every runtime's figures, the fastest peer, and our speed-up over it."""
    own = next(timing for timing in timings if timing.runtime == ours)
    peers = [timing for timing in timings if timing.runtime != ours]
    best = min(peers, key=lambda timing: median(timing.samples_s), default=None)
    return {
        "results": [timing.summary() for timing in timings],
        "best_peer": best.runtime if best else None,
        "speedup_over_best_peer": speedup(own, best) if best else None,
    }


def _absolute(model: BenchModel) -> BenchModel:
    """The same files for a process in another folder; an empty path stays empty."""

    def absolute(path: str) -> str:
        return str(Path(path).resolve()) if path else ""

    return replace(
        model,
        onnx_file=absolute(model.onnx_file),
        library=absolute(model.library),
        weights=absolute(model.weights),
    )


def _cpus(threads: int) -> list[int]:
    """One CPU of each of the last physical cores this process may use: the first ones serve most interrupts.

    Raises:
        BenchError: there are not so many.
    """
    available = available_cpus()
    if threads > len(available):
        raise BenchError(f"{threads} threads were asked for, and this process may use {len(available)} cores.")
    return list(available[-threads:])
