"""The stages that find a network: setup, calibrate, baseline, search, derive. No weights are kept."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from math import ceil
from pathlib import Path
from time import perf_counter

from pipeline.calibration import calibrate_space, disturbance
from pipeline.config import RunConfig
from pipeline.context import MeasuredAndBudget, Result, RunContext
from pipeline.deploy import versions
from pipeline.events import with_events
from pipeline.files import write_atomically, write_json
from pipeline.fit import check_possible, derive_within
from pipeline.measure import measure_networks, require_runnable
from pipeline.saved_calibration import save_calibration
from supernet import search as searching
from supernet.algorithms.interface import Ranked
from supernet.architecture import Architecture
from supernet.settings import SearchSettings, recipe
from supernet.sources import DIGITS, open_source
from supernet.space import SearchSpace
from supernet.space_file import SUFFIX, find_space
from targets.target import Target
from tvm_latency.accuracy import Scores
from tvm_latency.database import MeasurementDatabase
from tvm_latency.opspec import stored_as
from tvm_latency.schedules import schedule_version

SEARCH_CHECKPOINT = "search.checkpoint"
# The derived network is predicted to use so much of a budget, if one does.
USED = 0.95
# Up to this many pixels a photograph keeps nothing back from a network for 32 x 32.
_SMALL_IMAGE = 64


def setup(context: RunContext, folder: Path) -> Result:
    """What the run is about. Whatever does not exist or cannot be read ends the run here, before any work.

    Raises:
        TargetError, SpaceError, DataError: there is no such target, space or data.
        RunnerError: this machine cannot run code for a target.
        ConfigError: the budget has another unit than a target's figures.
    """
    config = context.config
    for target in context.targets:
        require_runnable(target)
        config.parsed_budget.seconds(1.0, target)
    source = config.space or suitable_space(config.data)
    find_space(source)
    if source.endswith(SUFFIX):
        write_atomically(folder / Path(source).name, Path(source).read_bytes())
    context.results["setup"] = {"space_source": source}
    space, data = context.given_space, context.data
    context.say(space.describe())
    return {
        **context.for_each(lambda target: {"target": {**asdict(target), "fingerprint": target.fingerprint}}),
        "space": space.name,
        "space_source": source,
        "networks": float(space.size),
        "recipe": config.recipe,
        "data": config.data,
        "classes": len(data.classes),
        "images": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "seed": config.seed,
        "weights": config.weights,
        "dtype": config.dtype,
        "shares": list(config.shares),
        "versions": all_versions(context.targets),
    }


def all_versions(targets: Iterable[Target]) -> dict[str, str]:
    """Every version that a run's results depend on: what is installed, and the schedules for its targets."""
    schedules = sorted({schedule_version(target) for target in targets}, reverse=True)
    return {**versions(), "schedules": ", ".join(map(str, schedules))}


def suitable_space(data: str) -> str:
    """The preset for the data's image size: that of its first training image.

    Raises:
        DataError: the source cannot be opened, has no training images, or the first of them is broken.
    """
    if data == DIGITS:
        return "digits"
    with open_source(data).train.open(0) as image:
        return "cifar" if min(image.size) <= _SMALL_IMAGE else "imagenet"


def calibrate(context: RunContext, folder: Path, target: Target) -> Result:
    """Measure the operators of the space and some networks, fit the cost model, judge it.

    Raises:
        CalibrationError: too little could be measured.
    """
    started = perf_counter()
    with closing(MeasurementDatabase(context.database)) as database:
        if database.recovered:
            context.say(database.recovered)
        found = calibrate_space(context.space, target, database, context.progress, weights=context.config.weights)
    save_calibration(found, folder, target)
    if sentence := disturbance(found.calibration.disturbed):
        context.say(sentence)
    return {
        "seconds": perf_counter() - started,
        "measured": found.calibration.measured,
        "reused": found.calibration.reused,
        "failures": dict(found.calibration.failures),
        "disturbed": found.calibration.disturbed,
        "clocks_mhz": list(found.calibration.clocks_mhz),
        "noise": found.calibration.accuracy.noise,
        "baseline_s": found.baseline_s,
        "networks": [asdict(net) for net in found.held_out],
        "cost_model": _accuracy(found.calibration.accuracy.model),
        "latency_table": _accuracy(found.calibration.accuracy.networks),
    }


def _accuracy(scores: Scores) -> Result:
    """Shares and rank correlation on networks that no fit has seen, as in the `cost_model` part of summary.json."""
    return {
        "within_5pct": scores.within_5pct,
        "within_10pct": scores.within_10pct,
        "spearman": scores.spearman,
        "networks": scores.count,
    }


def baseline(context: RunContext, folder: Path) -> Result:
    """Take what the baseline needed in the calibration, from which a relative budget gets its seconds.

    Where the calibration has none, which it says, the baseline is measured now.

    Raises:
        MeasureError: it could not be run.
        BudgetError: no network of the space keeps the budgets and the other limits.
    """
    net = context.space.baseline
    found = {"net": net.name, "architecture": net.text, **context.for_each(partial(_baseline, context))}
    context.results["baseline"] = found
    check_possible(context.space, context.constraints, lambda net: context.measured_budgets(_measured(context, net)))
    return found


def _baseline(context: RunContext, target: Target) -> Result:
    net, measured_s = context.space.baseline, context.result("calibrate", target).get("baseline_s")
    if measured_s is None:
        context.say("The calibration has no measurement of the baseline, so it is measured by itself.")
        measured_s = measure_networks({net.name: net}, target, context.config.weights)[net.name]
    return {"measured_s": measured_s, "budget_s": context.config.parsed_budget.seconds(measured_s, target)}


def search(context: RunContext, folder: Path) -> Result:
    """Search for the path probabilities under the budget.

    Raises:
        SearchError: the search diverged.
        CheckpointError: its checkpoint is not its own.
    """
    found = searching.search(
        context.space,
        context.data,
        context.constraints,
        search_settings(context.space, context.config),
        folder / SEARCH_CHECKPOINT,
        with_events(context.progress, folder / "events"),
        warmup=context.warmup,
        notice=context.say,
    )
    return {
        "seconds": found.seconds,
        "warmup_seconds": found.warmup_seconds,
        "ranking": [asdict(ranked) for ranked in found.ranking],
        "probabilities": [list(block) for block in found.probabilities],
        "history": found.history,
        "candidates": [[str(choice) for choice in block.candidates] for block in context.space.blocks],
    }


def search_settings(space: SearchSpace, config: RunConfig) -> SearchSettings:
    """Those of the recipe for such images; fewer epochs than it has mean a warm-up shorter in proportion."""
    settings = replace(
        recipe(config.recipe, space.resolution).search,
        algorithm=config.algorithm,
        penalty=config.penalty,
        seed=config.seed,
    )
    if config.search_epochs is None:
        return settings
    warmup = ceil(settings.warmup_epochs * config.search_epochs / settings.epochs)
    return replace(settings, epochs=config.search_epochs, warmup_epochs=warmup)


def derive(context: RunContext, folder: Path) -> Result:
    """The most probable network that is measured to be within the budget of every target, and uses it.

    Raises:
        BudgetError: not even the fastest network of the space is.
    """
    measured: dict[str, MeasuredAndBudget] = {}

    def measure(net: Architecture) -> list[MeasuredAndBudget]:
        measured.update(_measured(context, net))
        return context.measured_budgets(measured)

    attempts = derive_within(
        context.space,
        context.results["search"]["probabilities"],
        context.constraints,
        measure,
        [Ranked(tuple(row["path"]), row["reward"]) for row in context.results["search"]["ranking"]],
        # The paper's penalties drive nothing to a budget.
        USED if context.config.penalty == "target" else 0.0,
    )
    winner = attempts[-1].architecture
    write_json(folder / "architecture.json", replace(winner, name="derived").to_json())
    return {
        "architecture": winner.text,
        "rederivations": len(attempts) - 1,
        **context.for_each(partial(_derived, context, winner, measured)),
    }


def _derived(
    context: RunContext, net: Architecture, measured: Mapping[str, MeasuredAndBudget], target: Target
) -> Result:
    """Latencies of the derived network on a target."""
    ops, table = stored_as(net.op_specs(), context.config.weights, target.batch), context.table(target)
    entries = ((op.key, table.entries[op.key]) for op in ops)
    measured_s, budget_s = measured[target.name]
    return {
        "predicted_s": table.network_seconds(ops),
        "measured_s": measured_s,
        "budget_s": budget_s,
        "operators": [{"key": key, "seconds": entry.network_s, "source": entry.source} for key, entry in entries],
    }


def _measured(context: RunContext, net: Architecture) -> dict[str, MeasuredAndBudget]:
    """What a network takes on each target, and may."""
    nets, found = {"network": net, "baseline": context.space.baseline}, {}
    for target in context.targets:
        times = measure_networks(nets, target, context.config.weights)
        found[target.name] = times["network"], context.config.parsed_budget.seconds(times["baseline"], target)
    return found
