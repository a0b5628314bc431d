"""The process that `tune_fallbacks` tunes one function in: a line of JSON in, lines with progress and the answer out.

It builds and runs candidates in this very process. TVM's own builder and runner start a process for each, which takes
longer than a few dozen trials; here a candidate that crashes or hangs costs the tuning of one function, no more.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType, TracebackType
from typing import Any

# TVM's Python layer imports torch when it can, which takes longer than all the rest and serves nothing here.
sys.modules["torch"] = None  # type: ignore[assignment]

import numpy as np  # noqa: E402
import tvm  # noqa: E402
import tvm.s_tir  # noqa: E402

# Nor do the intrinsics of other machines' tensor cores: parsing those of CUDA alone takes a quarter of a minute.
_INTRINSICS = ModuleType("tvm.s_tir.tensor_intrin")
_INTRINSICS.__path__ = [str(Path(tvm.s_tir.__path__[0]) / "tensor_intrin")]
sys.modules[_INTRINSICS.__name__] = _INTRINSICS

import tvm.s_tir.tensor_intrin.x86  # noqa: E402
from tvm.ir.utils import derived_object  # noqa: E402
from tvm.s_tir import meta_schedule as ms  # noqa: E402

# Trials between two looks at the search strategy.
TRIALS_AT_ONCE = 16
CALLS, ROUNDS = 3, 7
# Sums in another order differ by rounding; a wrong schedule differs by whole values. The network is verified later.
TOLERANCE = 1e-4


def arguments(func: Any) -> list[Any]:
    """Random tensors for all parameters, of a fixed seed; integers are 0 or 1, valid indices of most things."""
    random = np.random.default_rng(0)

    def draw(type_: Any) -> np.ndarray:
        shape = tuple(int(size) for size in type_.shape)
        if "float" in str(type_.dtype):
            return random.standard_normal(shape).astype(str(type_.dtype))
        return random.integers(0, 2, shape).astype(str(type_.dtype))

    return [tvm.runtime.tensor(draw(parameter.ty)) for parameter in func.params]


def seconds(library: Any, tensors: list[Any]) -> float:
    """Median seconds of a call, after one that warms up."""
    library["main"](*tensors)
    return float(median(library.mod.time_evaluator("main", tvm.cpu(), number=1, repeat=CALLS)(*tensors).results))


@derived_object
class Build(ms.builder.PyBuilder):
    """Builds in this process; `built` holds what the runner takes, under the name it is given for a file."""

    def __init__(self) -> None:
        super().__init__()
        self.built: dict[str, Any] = {}

    def build(self, build_inputs: Any) -> list[Any]:
        """A result for each candidate; one that does not compile is a message."""
        return [self._built(candidate) for candidate in build_inputs]

    def _built(self, candidate: Any) -> Any:
        try:
            library = tvm.compile(candidate.mod, candidate.target)
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            return ms.builder.BuilderResult(None, str(error))
        name = str(len(self.built))
        self.built[name] = library
        return ms.builder.BuilderResult(name, None)


@derived_object
class Timed(ms.runner.PyRunnerFuture):
    """A time that is there already."""

    def __init__(self, time_s: float) -> None:
        super().__init__()
        self.time_s = time_s

    def done(self) -> bool:
        """Always."""
        return True

    def result(self) -> Any:
        """The time as MetaSchedule's result."""
        return ms.runner.RunnerResult([self.time_s], None)


@derived_object
class Run(ms.runner.PyRunner):
    """Times in this process."""

    def __init__(self, build: Any, tensors: list[Any], progress: Callable[[int], None]) -> None:
        super().__init__()
        self.build, self.tensors, self.progress = build, tensors, progress
        self.done = 0

    def run(self, runner_inputs: Any) -> list[Any]:
        """A time for each candidate, one after the other."""
        return [self._timed(candidate.artifact_path) for candidate in runner_inputs]

    def _timed(self, name: str) -> Any:
        time_s = seconds(self.build.built[name], self.tensors)
        # Unloaded: hundreds of libraries would fill the memory. The name stays taken.
        self.build.built[name] = None
        self.done += 1
        self.progress(self.done)
        return Timed(time_s)


def tune(module: Any, target: Any, trials: int, progress: Callable[[int], None]) -> Any:
    """The module with the fastest of that many random schedules of TVM's space.

    Random ones, since the evolutionary search spends minutes on proposing what its model, without a hundred samples,
    cannot yet tell apart.

    Raises:
        RuntimeError: no schedule could be built.
    """
    build = Build()
    with tempfile.TemporaryDirectory() as folder:
        database = ms.tune_tir(
            module,
            target,
            folder,
            trials,
            num_trials_per_iter=min(trials, TRIALS_AT_ONCE),
            builder=build,
            runner=Run(build, arguments(module["main"]), progress),
            # In memory: the one in a file is rejected whole for one bad line.
            database="memory",
            cost_model="random",
            measure_callbacks=[ms.measure_callback.AddToDatabase()],
            strategy="replay-trace",
            num_tuning_cores=1,
            seed=0,
        )
        found = ms.tir_integration.compile_tir(database, module, target)
    if found is None:
        raise RuntimeError("no schedule could be built")
    return found.mod


def compare(default: Any, tuned: Any, target: Any) -> tuple[float, float]:
    """Seconds of both modules, in turns.

    Raises:
        RuntimeError: they do not compute the same, or the tuned one is not faster.
    """
    libraries = [tvm.compile(module, target) for module in (default, tuned)]
    results = []
    for library in libraries:
        tensors = arguments(default["main"])
        library["main"](*tensors)
        results.append(tensors[-1].numpy().astype(np.float64))
    expected, got = results
    if not np.allclose(got, expected, rtol=0, atol=TOLERANCE * abs(expected).max(), equal_nan=True):
        raise RuntimeError("the fastest schedule computes something else")
    tensors = arguments(default["main"])
    rounds = [[seconds(library, tensors) for library in libraries] for _ in range(ROUNDS)]
    default_s, tuned_s = (median(times) for times in zip(*rounds))
    if tuned_s >= default_s:
        raise RuntimeError("no schedule was faster")
    return default_s, tuned_s


def main() -> None:
    """Answer the one job on standard input."""
    # What TVM prints must not mix with the replies, so standard output moves aside and becomes standard error.
    with os.fdopen(os.dup(1), "w") as replies:
        os.dup2(2, 1)

        def reply(message: dict[str, object]) -> None:
            print(json.dumps(message), file=replies, flush=True)

        def report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            said = (str(error).strip().splitlines() or [""])[-1]
            reply({"error": f"gave up: {said}" if kind is RuntimeError else f"gave up: {kind.__name__}: {said}"})

        sys.excepthook = report
        job = json.loads(sys.stdin.readline())
        os.sched_setaffinity(0, job["cpus"])
        default, target = tvm.ir.load_json(job["module"]), tvm.target.Target(job["target"])
        tuned = tune(default, target, job["trials"], lambda done: reply({"trials": done}))
        default_s, tuned_s = compare(default, tuned, target)
        reply({"module": tvm.ir.save_json(tuned), "default_s": default_s, "tuned_s": tuned_s})


if __name__ == "__main__":
    main()
