"""Tiles by measuring, for the commands that were given `--tune`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from pipeline.measure import code_versions
from pipeline.places import default_database
from supernet.settings import Progress
from targets.local import LocalRunner
from targets.target import Target
from tvm_latency import tune as tuning
from tvm_latency.database import MeasurementDatabase
from tvm_latency.fallback import FallbackSettings, tune_fallbacks
from tvm_latency.lower import Lowered, lower
from tvm_latency.opspec import WeightType


def tuned(
    target: Target,
    models: Iterable[onnx.ModelProto],
    database: MeasurementDatabase,
    progress: Progress,
    weights: WeightType = "float32",
) -> Target:
    """The target with the tiles of every kernel of the models, timed now as far as the database lacks them.

    A target without `alternatives` stays as it is.

    weights: how those of the kernels are stored; each type has kernels, and so tiles, of its own.

    Raises:
        LoweringError: a model cannot be compiled.
        RunnerError: this machine cannot run code for the target.
    """
    if not target.alternatives:
        return target
    analytic = target.with_tiles(target.alternatives)
    specs = dict.fromkeys(spec for model in models for spec in lower(model, analytic, weights).specs)
    with TemporaryDirectory() as workspace:
        found = tuning.tune(
            tuple(specs),
            analytic,
            runner=LocalRunner(target),
            database=database,
            versions=code_versions(),
            workspace=Path(workspace),
            progress=progress,
        )
    faster = {name: choice.tile for name, choice in found.items() if choice.seconds < choice.analytic_s}
    return target.with_tiles(target.alternatives, faster)


def tuned_here(
    target: Target,
    models: Iterable[onnx.ModelProto],
    database: Path | None,
    progress: Progress,
    say: Callable[[str], None],
    weights: WeightType = "float32",
) -> Target:
    """As `tuned`, with the database in a file, by default the user's, which is not touched where nothing is tuned."""
    if not target.alternatives:
        return target
    with closing(MeasurementDatabase(database or default_database())) as rows:
        if rows.recovered:
            say(rows.recovered)
        return tuned(target, models, rows, progress, weights)


def with_fallbacks(
    target: Target, trials: int, progress: Progress, say: Callable[[str], None]
) -> Callable[[Lowered], Lowered] | None:
    """What `deploy.build` does between lowering and compiling: so many trials for what no kind covers, or nothing."""
    if not trials:
        return None
    settings = FallbackSettings(trials=trials)
    return partial(tune_fallbacks, target=target, settings=settings, progress=progress, say=say)
