"""Workbench: builds artefacts and times them in random order, beside a reference that tells how the machine does."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, field, replace
from math import inf
from pathlib import Path
from random import Random

from targets.runner import WRITTEN, Failure, Job, Runner, RunnerError, Timing
from tvm_latency.database import Context, Measurement, MeasurementDatabase, Round
from tvm_latency.drift import LEAST_ROUNDS, steady
from tvm_latency.onnx_graph import input_shape
from tvm_latency.opspec import OpSpec, network_weight_bytes
from tvm_latency.reference import REFERENCE_OPS

Ops = Sequence[OpSpec]
# Builds for each key what runs operators in sequence, at a path, and beside a shared library, ending in .npz, what it
# must answer (see `targets.runner.Job`); yields the key with the path or, as text, why it cannot, as they come.
Build = Callable[[Mapping[str, tuple[Ops, Path]]], Iterable[tuple[str, Path | str]]]
# (stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]

REFERENCE = "reference"
ALWAYS, NEVER = -1.0, inf
# Of code and of what it must answer, beside the weights.
ARTEFACT_BYTES = 2 << 20


@dataclass(frozen=True, kw_only=True)
class MeasureSettings:
    """How candidates are timed: in `rounds` passes over all of them, `warmup` calls and `repeats` timed ones in each.

    The reference has its turn before every `reference_every` candidates. What spreads over rounds by more than `noise`
    of its time (or by its candidate's), or met a slow machine in all but a few, has as many passes again, after
    `pause_s` seconds, until there were `attempts`.
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
    """Operators to run in sequence, under which context their time is kept.

    noise: in place of the settings'; ALWAYS and NEVER have it measured again, or not, however quiet it was.
    """

    ops: tuple[OpSpec, ...]
    context: Context
    noise: float | None = None


@dataclass(frozen=True)
class _Timed:
    """A round of a candidate."""

    key: str
    round: Round


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """Builds everything that lacks times in the database, then runs all of it in passes, and records each round.

    In passes, because minutes lie between the first candidate and the last: so each is measured in all the moods that
    the machine had, and not one kind of them in one mood.

    workspace: where artefacts are kept until all is measured; what an interrupted calibration left there is not built
    again. Nothing is built while something is timed.

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
    seed: int = 0
    sleep: Callable[[float], None] = time.sleep

    def measure(self, candidates: Mapping[str, Candidate]) -> int:
        """Measure every candidate (key -> operators) that lacks rounds, is uncertain, or failed when it was last run.

        Answers how many did not have to be run.
        """
        due = self._due(candidates)
        reused, jobs, failed = len(candidates) - len(due), dict[str, Job](), set[str]()
        if not due:
            return reused
        reference = self._reference(next(iter(candidates.values())).context)
        while due:
            jobs |= self._build_all({key: candidates[key] for key in due if key not in jobs}, failed)
            failed |= self._passes([jobs[key] for key in due if key in jobs], candidates, reference, due)
            due = {key: number for key, number in self._due(candidates).items() if key not in failed}
            if due:
                self.sleep(self.settings.pause_s)
        # What failed is run once more by the next calibration, and what others have built is theirs.
        measured = [self._module(key, candidate) for key, candidate in candidates.items() if key not in failed]
        for module in (reference.module, *measured):
            for suffix in WRITTEN[self.runner.form]:
                module.with_suffix(suffix).unlink(missing_ok=True)
        return reused

    def _due(self, candidates: Mapping[str, Candidate]) -> dict[str, int]:
        """How many rounds each candidate should still have; those with none are left out."""
        rows = {key: self.database.find(key, candidate.context) for key, candidate in candidates.items()}
        found = steady({key: row.rounds for key, row in rows.items() if row})
        planned, most = self.settings.rounds, self.settings.rounds * self.settings.attempts

        def done(key: str, row: Measurement | None) -> bool:
            if row is None or row.failure is not None or not row.rounds or len(row.rounds) % planned:
                return False
            own = candidates[key].noise
            quiet = found[key].noise <= (self.settings.noise if own is None else own)
            certain = quiet and found[key].calm_rounds >= min(LEAST_ROUNDS, planned)
            return certain or len(row.rounds) >= most

        # An attempt that was begun is finished.
        had = {key: len(row.rounds) if row else 0 for key, row in rows.items()}
        return {key: planned - had[key] % planned for key, row in rows.items() if not done(key, row)}

    def _reference(self, context: Context) -> Job:
        ((_, found),) = self._jobs({REFERENCE: Candidate(REFERENCE_OPS, replace(context, evict_bytes=0))})
        if isinstance(found, str):
            raise RunnerError(f"The reference network cannot be built: {found}")
        return found

    def _build_all(self, candidates: Mapping[str, Candidate], failed: set[str]) -> dict[str, Job]:
        """A job for every candidate that can be built; for each other one a row, and its key in `failed`."""
        jobs = {}
        for number, (key, found) in enumerate(self._jobs(candidates), start=1):
            if isinstance(found, str):
                failed.add(key)
                self.database.add(key, candidates[key].context, found)
            else:
                jobs[key] = found
            self.progress("build", number, len(candidates), {})
        return {key: jobs[key] for key in candidates if key in jobs}

    def _jobs(self, candidates: Mapping[str, Candidate]) -> Iterator[tuple[str, Job | str]]:
        """A job for each candidate, or why it cannot be built. An artefact appears whole or not at all."""
        modules = {key: self._module(key, candidate) for key, candidate in candidates.items()}
        missing = {key: module for key, module in modules.items() if not module.exists()}
        self._require_space([candidates[key].ops for key in missing])
        yield from ((key, self._job(key, candidates[key])) for key in modules if key not in missing)
        # Not the same names as of a process that was killed, whose children may not know it yet.
        parts = {key: module.with_name(f"part-{os.getpid()}-{module.name}") for key, module in missing.items()}
        for key, built in self.build({key: (candidates[key].ops, part) for key, part in parts.items()}):
            if isinstance(built, str):
                yield key, built
            else:
                for suffix in WRITTEN[self.runner.form]:
                    built.with_suffix(suffix).replace(modules[key].with_suffix(suffix))
                yield key, self._job(key, candidates[key])

    def _job(self, key: str, candidate: Candidate) -> Job:
        module = self._module(key, candidate)
        return Job(
            key=key,
            module=module,
            input_shapes=(input_shape(candidate.ops[0]),),
            repeats=self.settings.repeats,
            warmup=self.settings.warmup,
            evict_bytes=candidate.context.evict_bytes,
            answer=module.with_suffix(".npz") if self.runner.form == "library" else None,
        )

    def _require_space(self, missing: Sequence[Ops]) -> None:
        needed = sum(ARTEFACT_BYTES + network_weight_bytes(ops) for ops in missing)
        free = shutil.disk_usage(self.workspace).free
        if free < needed:
            raise OSError(
                errno.ENOSPC,
                f"Only {free >> 20} MB are free where {self.workspace} is, and what will be measured takes about "
                f"{needed >> 20} MB. Free some space, or name a file on another disk with --database",
            )

    def _module(self, key: str, candidate: Candidate) -> Path:
        name = hashlib.sha256(repr((key, astuple(candidate.context))).encode()).hexdigest()[:24]
        return self.workspace / f"{name}{WRITTEN[self.runner.form][-1]}"

    def _passes(
        self, jobs: Sequence[Job], candidates: Mapping[str, Candidate], reference: Job, due: Mapping[str, int]
    ) -> set[str]:
        """As many passes over the jobs as each has rounds due, in another order each time; the keys of what failed."""
        passes, random = list[list[Job]](), Random(self.seed)
        for number in range(max((due[job.key] for job in jobs), default=0)):
            turn = [job for job in jobs if due[job.key] > number]
            random.shuffle(turn)
            passes.append(self._with_reference(turn, reference))
        failed, left = set[str](), {job.key: due[job.key] for job in jobs}
        # Who has to walk for results gets all of them or, if this is interrupted, asks for the same once more.
        rounds = self._rounds(passes) if self.runner.at_once else iter(list(self._rounds(passes)))
        together = nullcontext() if self.runner.at_once else self.database.transaction()
        with together:
            self._record(rounds, candidates, left, failed)
        return failed

    def _record(
        self,
        rounds: Iterator[Failure | _Timed],
        candidates: Mapping[str, Candidate],
        left: dict[str, int],
        failed: set[str],
    ) -> None:
        """Add what comes to the database, take it from the rounds that are left, and note what failed."""
        total = sum(left.values())
        for found in rounds:
            context = candidates[found.key].context
            if isinstance(found, Failure):
                failed.add(found.key)
                left[found.key] = 0
                self.database.add(found.key, context, found.reason)
            else:
                left[found.key] -= 1
                self.database.add(found.key, context, found.round)
            self.progress("measure", total - sum(left.values()), total, {})

    def _with_reference(self, jobs: Sequence[Job], reference: Job) -> list[Job]:
        """The jobs, with the reference before the first and after every few."""
        every = self.settings.reference_every
        groups = [jobs[first : first + every] for first in range(0, len(jobs), every)]
        return [reference, *(job for group in groups for job in (*group, reference))]

    def _rounds(self, passes: Sequence[Sequence[Job]]) -> Iterator[Failure | _Timed]:
        """Run them: the round of every job, with the reference's turns before and after it."""
        before_s, waiting = tuple[float, ...](), list[Timing]()
        for result in self.runner.run(passes):
            if result.key != REFERENCE:
                if isinstance(result, Failure):
                    yield result
                else:
                    waiting.append(result)
                continue
            if isinstance(result, Failure):
                again = (
                    "" if self.runner.at_once else ". To measure it once more, remove the folder of its bundle first"
                )
                raise RunnerError(f"The reference network cannot be measured: {result.reason}{again}")
            for timing in waiting:
                yield _Timed(timing.key, Round(timing.samples_s, before_s + result.samples_s, timing.clock_mhz))
            before_s, waiting = result.samples_s, []
