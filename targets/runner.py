"""Runners: what runs a compiled module on a target and returns raw times."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


class RunnerError(RuntimeError):
    """Nothing can be run on the target at all, as opposed to one job that fails."""


Form = Literal["library", "program", "plugin"]
"""What is run: a shared library for TVM's runtime, or a `netbench`, which needs none and has its answer inside; a
plugin is one as a library, of which one process runs many."""

PLUGIN = ".plugin"
WRITTEN: dict[Form, tuple[str, ...]] = {"library": (".npz", ".so"), "program": (".netbench",), "plugin": (PLUGIN,)}
"""The endings of the files of a candidate. What runs is the last: where it is, its answer is."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One timing to take: of `main` of a Relax VM module, on float32 inputs, or of the network in a `netbench`.

    Before each timed call `evict_bytes` of memory are read and written, and then the inputs, so that weights are as
    cold and inputs as warm as inside a network; 0 leaves the caches as they are. The first `warmup` calls are not
    reported.

    input_shapes, answer: of a library. The answer is an .npz file with `input`, an `output` and a `tolerance`: before
        it is timed for the first time the module must answer that input with that output, or the job fails. No output
        may be off by more than that share of the largest.
    """

    key: str
    module: Path
    input_shapes: tuple[tuple[int, ...], ...] = ()
    repeats: int = 20
    warmup: int = 2
    evict_bytes: int = 0
    answer: Path | None = None


@dataclass(frozen=True)
class Answer:
    """What a `netbench` found of its own output: how far it is off the reference's, and whether the largest agree."""

    max_abs_error: float
    same_top1: bool


@dataclass(frozen=True)
class Timing:
    """Raw samples of one job's turn in seconds, one for each call, in the order of the calls.

    counts: what an emulator counted of one call, by name. clock_mhz: of what computed, after the last call; 0: unknown.
    """

    key: str
    samples_s: tuple[float, ...]
    answer: Answer | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    clock_mhz: int = 0


@dataclass(frozen=True)
class Failure:
    """A job that gave no time, and why."""

    key: str
    reason: str


class Runner(Protocol):
    """What measures on a target."""

    @property
    def form(self) -> Form:
        """What it runs."""
        ...

    @property
    def at_once(self) -> bool:
        """Whether results come while one waits; if not, every call of `run` costs somebody a walk."""
        ...

    @property
    def exact(self) -> bool:
        """Whether it answers the same each time, so that once is enough."""
        ...

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        """Yield the result of every turn, in order. Jobs that fail, by their keys, have no further turn.

        Who plans passes over all jobs has a busy moment of the machine fall on a few calls of many, where their medians
        do not notice it, and not on all calls of one. What a process keeps is the same within a pass at most.

        Raises:
            RunnerError: nothing can be run.
        """
        ...
