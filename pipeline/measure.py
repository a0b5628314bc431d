"""Whole networks, measured on a target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from supernet.architecture import Architecture
from targets.cuda_compiler import cuda_compiler_version
from targets.emulated import EmulatedRunner
from targets.runner import WRITTEN, Failure, Form, Job, Timing
from targets.runners import find_runner
from targets.target import Target
from tvm_latency.candidate import build_candidate
from tvm_latency.onnx_graph import input_shape
from tvm_latency.opspec import WeightType, stored_as
from tvm_latency.schedules import schedule_version
from tvm_latency.standalone.write import NETBENCH

# Small networks run in a fraction of a millisecond: enough runs to outlast a busy moment of the machine.
NETWORK_ROUNDS, NETWORK_REPEATS, NETWORK_WARMUP = 10, 100, 20
# Where a process has its memory makes a small network some per cent faster or slower, for as long as it lives.
PROCESSES = 5
# Large ones would take minutes for that: so many seconds in a turn, and in all turns, unless the least take longer.
TURN_S, TOTAL_S, LEAST = 2.0, 20.0, 3
# A first call has this long; a turn that takes so many times as long as the first call announced is stuck.
FIRST_DEADLINE_S, PATIENCE = 120.0, 5.0


# Where one call does not decide it.
AWAY_REPEATS = 20
# The file of an artefact that a runner takes.
RUNS: dict[Form, str] = {"library": "model.so", "program": NETBENCH, "plugin": NETBENCH}


class MeasureError(RuntimeError):
    """A network could not be run on its target."""


def code_versions(target: Target) -> tuple[int, str]:
    """What decides, beside the machine, which measurements count: our schedules, and what compiles them."""
    compiler = f" with {cuda_compiler_version()}" if target.kind == "cuda" else ""
    return schedule_version(target), version("apache-tvm") + compiler


def what_runs(folder: Path, target: Target) -> Path:
    """The file of an artefact that the target's runner takes.

    Raises:
        MeasureError: the artefact lacks it.
    """
    file = folder / RUNS[find_runner(target).form]
    if not file.exists():
        raise MeasureError(
            f"{folder} has no {file.name}, and {target.runner} measures nothing else. Compile it again to see why."
        )
    return file


def measure_files(
    files: Mapping[str, Path], shape: Sequence[int], target: Target, answers: Mapping[str, Path] | None = None
) -> dict[str, Timing]:
    """Every timed run of each network, by name: back to back within a turn, in turns with each other.

    What slows the machine for a while so slows all of them, and their ratios hold. The turns are those of several
    processes, which have their memory in different places. One call of each, which is not
    reported, decides how many are timed; not where somebody would have to walk for it. What is counted needs one.

    files: what runs, of the form that the target's runner takes.
    answers: of libraries; see `targets.runner.Job`.

    Raises:
        MeasureError: one crashed, took too long, or answered wrongly.
        RunnerError: nothing can be run for the target.
    """

    def jobs(repeats: int, warmup: int) -> list[Job]:
        shapes = (tuple(shape),)
        return [
            Job(
                key=name,
                module=file.resolve(),
                input_shapes=shapes,
                repeats=repeats,
                warmup=warmup,
                answer=(answers or {}).get(name),
            )
            for name, file in files.items()
        ]

    runner = find_runner(target)
    if runner.exact:
        return _timed(jobs(repeats=1, warmup=0), target, 1, FIRST_DEADLINE_S)
    if not runner.at_once:
        return _timed(jobs(AWAY_REPEATS, 1), target, NETWORK_ROUNDS, FIRST_DEADLINE_S)
    first = _timed(jobs(repeats=1, warmup=1), target, 1, FIRST_DEADLINE_S)
    call_s = max(sample for timing in first.values() for sample in timing.samples_s)
    repeats = _within(NETWORK_REPEATS, TURN_S / call_s)
    warmup = max(1, NETWORK_WARMUP * repeats // NETWORK_REPEATS)
    turn_s = (repeats + warmup) * call_s
    deadline_s = max(FIRST_DEADLINE_S, PATIENCE * turn_s)
    return _timed(jobs(repeats, warmup), target, _within(NETWORK_ROUNDS, TOTAL_S / turn_s), deadline_s)


def counts_of(program: Path, target: Target) -> Timing:
    """What an emulator counts of one inference, loads, stores and cache misses too.

    Raises:
        MeasureError: the program failed.
        RunnerError: nothing emulates the target.
    """
    (found,) = EmulatedRunner(target, caches=True).run([[Job(key=program.name, module=program)]])
    if isinstance(found, Failure):
        raise MeasureError(f"{program} could not be emulated: {found.reason}.")
    return found


def _within(most: int, affordable: float) -> int:
    """As many as can be afforded, between `LEAST` and `most`."""
    return max(LEAST, min(most, int(affordable)))


def _timed(jobs: Sequence[Job], target: Target, rounds: int, deadline_s: float) -> dict[str, Timing]:
    found = {job.key: Timing(job.key, ()) for job in jobs}
    runner = find_runner(target, deadline_s)
    processes = min(PROCESSES, rounds)
    for result in runner.run([[*jobs] * len(range(number, rounds, processes)) for number in range(processes)]):
        if isinstance(result, Failure):
            again = "" if runner.at_once else " To measure it once more, remove the folder of its bundle first."
            raise MeasureError(f"{result.key} could not be measured on {target.name}: {result.reason}.{again}")
        before = found[result.key]
        samples_s, answer = before.samples_s + result.samples_s, before.answer or result.answer
        found[result.key] = replace(result, samples_s=samples_s, answer=answer)
    return found


def require_runnable(target: Target) -> None:
    """Refuse a target whose code nothing can run, before there is any.

    Raises:
        RunnerError: it needs vectors or cores that this machine does not have, or no way to it is known.
    """
    find_runner(target)


def measure_networks(
    nets: Mapping[str, Architecture], target: Target, weights: WeightType = "float32"
) -> dict[str, float]:
    """Median seconds of each network, compiled with random weights; all of one resolution, measured in turns.

    weights: how those are stored.

    Raises:
        MeasureError, LoweringError, StandaloneError, ToolchainError: one cannot be compiled or run.
    """
    with TemporaryDirectory() as folder:
        form = find_runner(target).form
        files = {name: Path(folder) / f"{number}{WRITTEN[form][-1]}" for number, name in enumerate(nets)}
        for name, net in nets.items():
            build_candidate(stored_as(net.op_specs(), weights, target.batch), target, form, files[name])
        shape = input_shape(next(iter(nets.values())).op_specs(target.batch)[0])
        return {name: median(timing.samples_s) for name, timing in measure_files(files, shape, target).items()}
