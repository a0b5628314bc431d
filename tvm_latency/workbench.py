"""Workbench: builds artefacts and times them in random order, beside a reference that tells how the machine does."""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from random import Random
from statistics import median

from targets.runner import Failure, Job, Runner, RunnerError
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.drift import QUIET_ROUNDS, quiet, steady, usual
from tvm_latency.onnx_graph import input_shape
from tvm_latency.opspec import OpSpec

Ops = Sequence[OpSpec]
# Builds a shared library of these operators in sequence at this path, and beside it, ending in .npz, what it must
# answer (see `targets.runner.Job`); returns the path or, as text, why it cannot.
Build = Callable[[Ops, Path], Path | str]
# (stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]

REFERENCE = "reference"
# Of code and of what it must answer, beside the weights.
ARTEFACT_BYTES = 2 << 20


def _mbconv(size: int, channels: int, out: int, kernel: int, stride: int = 1) -> OpSpec:
    return OpSpec(
        kind="mbconv",
        height=size,
        width=size,
        in_channels=channels,
        out_channels=out,
        kernel=kernel,
        stride=stride,
        expand=6,
    )


# A little of all that networks are made of, with more weights than second-level caches hold, so that it slows
# down with clocks and with neighbours that take memory.
REFERENCE_OPS: tuple[OpSpec, ...] = (
    _mbconv(28, 32, 48, kernel=5, stride=2),
    _mbconv(14, 48, 96, kernel=3),
    _mbconv(14, 96, 160, kernel=5, stride=2),
    OpSpec(kind="conv", height=7, width=7, in_channels=160, out_channels=1280),
    OpSpec(kind="pool", height=7, width=7, in_channels=1280, out_channels=1280),
    OpSpec(kind="linear", height=1, width=1, in_channels=1280, out_channels=1000),
)


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How candidates are timed: in `rounds` passes over all of them, `warmup` calls and `repeats` timed ones in each.

    The reference has its turn before every `reference_every` candidates. What spreads over rounds by more than `noise`
    of its time, or was disturbed in all but a few, has as many passes again, after `pause_s` seconds, until there were
    `attempts`.
    """

    rounds: int = 12
    repeats: int = 8
    warmup: int = 2
    reference_every: int = 6
    noise: float = 0.03
    attempts: int = 2
    pause_s: float = 5.0


@dataclass(frozen=True)
class Candidate:
    """Operators to run in sequence, under which context their time is kept."""

    ops: tuple[OpSpec, ...]
    context: Context


@dataclass(frozen=True)
class _Timed:
    """A round of a candidate, and the reference beside it."""

    key: str
    samples_s: tuple[float, ...]
    reference_s: float


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Builds everything that lacks times in the database, then runs all of it in passes, and records each round.

    In passes, because minutes lie between the first candidate and the last: so each is measured in all the moods that
    the machine had, and not one kind of them in one mood.

    workspace: where artefacts are kept until all is measured; what an interrupted calibration left there is not built
    again. workers: threads from which `build` is called. Nothing is built while something is timed.

    Raises:
        RunnerError: the reference cannot be built or run, so that nothing can be compared.
        OSError: the disk of the workspace is too full for all artefacts.
    """

    runner: Runner
    database: MeasurementDatabase
    build: Build
    workspace: Path
    progress: Progress
    settings: MeasureSettings = field(default_factory=MeasureSettings)
    workers: int = 1
    seed: int = 0
    sleep: Callable[[float], None] = time.sleep

    def measure(self, candidates: Mapping[str, Candidate]) -> int:
        """Measure every candidate (key -> operators) that lacks rounds, or failed when it was last run.

        Answers how many did not have to be run.
        """
        rounds = self.settings.rounds
        missing = {key: self._missing(key, candidate) for key, candidate in candidates.items()}
        missing = {key: number for key, number in missing.items() if number > 0}
        reused = len(candidates) - len(missing)
        if not missing:
            return reused
        reference = self._built(REFERENCE, Candidate(REFERENCE_OPS, next(iter(candidates.values())).context))
        if isinstance(reference, str):
            raise RunnerError(f"The reference network cannot be built: {reference}")
        reference = replace(reference, evict_bytes=0)
        jobs = self._build_all({key: candidates[key] for key in missing})
        self._passes(jobs, candidates, reference, missing)
        for _ in range(1, self.settings.attempts):
            noisy = self._noisy(candidates)
            again = {job.key: rounds for job in jobs if job.key in noisy}
            if again:
                self.sleep(self.settings.pause_s)
                self._passes([job for job in jobs if job.key in again], candidates, reference, again)
        return reused

    def _missing(self, key: str, candidate: Candidate) -> int:
        row = self.database.find(key, candidate.context)
        return self.settings.rounds - (len(row.rounds) if row and row.failure is None else 0)

    def _noisy(self, candidates: Mapping[str, Candidate]) -> set[str]:
        """The candidates whose time is not certain yet."""
        rows = {key: self.database.find(key, candidate.context) for key, candidate in candidates.items()}
        rounds = {key: row.rounds for key, row in rows.items() if row and row.failure is None}
        if not rounds:
            return set()
        usual_s = usual([reference_s for found in rounds.values() for _, reference_s in found])
        return {
            key
            for key, found in rounds.items()
            if len(quiet(found, usual_s)) < min(QUIET_ROUNDS, self.settings.rounds)
            or steady(found, usual_s).noise > self.settings.noise
        }

    def _build_all(self, candidates: Mapping[str, Candidate]) -> list[Job]:
        self._require_space(candidates)
        jobs: dict[str, Job] = {}
        with ThreadPoolExecutor(self.workers) as pool:
            building = {pool.submit(self._built, key, candidate): key for key, candidate in candidates.items()}
            try:
                for number, finished in enumerate(as_completed(building), start=1):
                    key, built = building[finished], finished.result()
                    if isinstance(built, str):
                        self.database.add(key, candidates[key].context, failure=built)
                    else:
                        jobs[key] = built
                    self.progress("build", number, len(candidates), {})
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return [jobs[key] for key in candidates if key in jobs]

    def _require_space(self, candidates: Mapping[str, Candidate]) -> None:
        missing = [found.ops for key, found in candidates.items() if not self._module(key, found).exists()]
        needed = sum(ARTEFACT_BYTES + sum(op.weight_bytes for op in ops) for ops in missing)
        free = shutil.disk_usage(self.workspace).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"Only {free >> 20} MB are free where {self.workspace} is, and what will be measured takes about "
                f"{needed >> 20} MB. Free some space, or name a file on another disk with --database",
            )

    def _module(self, key: str, candidate: Candidate) -> Path:
        name = hashlib.sha256(repr((key, astuple(candidate.context))).encode()).hexdigest()[:24]
        return self.workspace / f"{name}.so"

    def _built(self, key: str, candidate: Candidate) -> Job | str:
        """A job for the candidate's artefact, which appears whole or not at all; or why there is none."""
        module = self._module(key, candidate)
        answer = module.with_suffix(".npz")
        if not module.exists():
            part = module.with_name(f"part-{module.name}")
            built = self.build(candidate.ops, part)
            if isinstance(built, str):
                return built
            if part.with_suffix(".npz").exists():
                part.with_suffix(".npz").replace(answer)
            built.replace(module)
        return Job(
            key=key,
            module=module,
            input_shapes=(input_shape(candidate.ops[0]),),
            repeats=self.settings.repeats,
            warmup=self.settings.warmup,
            evict_bytes=candidate.context.evict_bytes,
            answer=answer if answer.exists() else None,
        )

    def _passes(
        self, jobs: Sequence[Job], candidates: Mapping[str, Candidate], reference: Job, missing: Mapping[str, int]
    ) -> None:
        """As many passes over the jobs as each is missing rounds, in another order each time."""
        failed: set[str] = set()
        total, done, random = sum(missing[job.key] for job in jobs), 0, Random(self.seed)
        for number in range(max((missing[job.key] for job in jobs), default=0)):
            due = [job for job in jobs if missing[job.key] > number and job.key not in failed]
            random.shuffle(due)
            # The answer is checked once.
            due = [replace(job, answer=None) if number else job for job in due]
            for found in self._pass(due, reference):
                done += 1
                context = candidates[found.key].context
                if isinstance(found, Failure):
                    failed.add(found.key)
                    done += missing[found.key] - number - 1
                    self.database.add(found.key, context, failure=found.reason)
                else:
                    self.database.add(found.key, context, samples_s=found.samples_s, reference_s=found.reference_s)
                self.progress("measure", done, total, {})

    def _pass(self, jobs: Sequence[Job], reference: Job) -> Iterator[Failure | _Timed]:
        """One round of every job, each with the mean of the reference before and after it."""
        every = self.settings.reference_every
        queue = [replace(reference, key=f"{REFERENCE} 0")]
        for number, job in enumerate(jobs, start=1):
            queue.append(job)
            if number % every == 0 or number == len(jobs):
                queue.append(replace(reference, key=f"{REFERENCE} {number}", answer=None))
        before_s, waiting = 0.0, []
        for result in self.runner.run(queue):
            if not result.key.startswith(REFERENCE):
                if isinstance(result, Failure):
                    yield result
                else:
                    waiting.append(result)
                continue
            if isinstance(result, Failure):
                raise RunnerError(f"The reference network cannot be measured: {result.reason}")
            now_s = median(result.samples_s)
            for timing in waiting:
                yield _Timed(timing.key, timing.samples_s, (before_s + now_s) / 2)
            before_s, waiting = now_s, []
