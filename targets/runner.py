"""Runners: what runs a compiled module on a target and returns raw times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


class RunnerError(RuntimeError):
    """Nothing can be run on the target at all, as opposed to one job that fails."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One timing to take: of `main` of a Relax VM module, on float32 inputs.

    Before each timed call `evict_bytes` of memory are read and written, and then the inputs, so that weights are as
    cold and inputs as warm as inside a network; 0 leaves the caches as they are. The first `warmup` calls are not
    reported.

    answer: an .npz file with `input`, an `output` and a `tolerance`: before it is timed the module must answer that
    input with that output, or the job fails. No output may be off by more than that share of the largest.
    """

    key: str
    module: Path
    input_shapes: tuple[tuple[int, ...], ...]
    repeats: int = 20
    warmup: int = 2
    evict_bytes: int = 0
    answer: Path | None = None


@dataclass(frozen=True)
class Timing:
    """Raw samples of one job in seconds, one for each call, in the order of the calls."""

    key: str
    samples_s: tuple[float, ...]


@dataclass(frozen=True)
class Failure:
    """A job that gave no time, and why."""

    key: str
    reason: str


class Runner(Protocol):
    """What measures on a target."""

    def run(self, jobs: Sequence[Job], rounds: int = 1) -> Iterator[Timing | Failure]:
        """Yield one result for each job.

        In each of the rounds every job has its turn, so a busy moment of the machine falls on a few calls of many jobs,
        where their medians do not notice it, and not on all calls of one. A Timing has the samples of all rounds and
        comes with the last; a Failure comes at once, and its job has no further turn.
        """
        ...
