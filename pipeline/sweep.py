"""Sweep: one warmed-up supernet, many budgets; the front of accuracy over latency."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pipeline import ranks
from pipeline.artefacts import silent
from pipeline.config import ALSO, ConfigError, RunConfig, make_config, parse_budget
from pipeline.context import RunContext
from pipeline.disk import require_free_space
from pipeline.figures import front_of_points
from pipeline.files import read_json, write_atomically, write_json
from pipeline.finding import SEARCH_CHECKPOINT, search_settings
from pipeline.machine import find_machine
from pipeline.places import RUNS, default_database
from pipeline.run_folder import Run, claim_folder, stored_config
from pipeline.stages import perform
from supernet.derive import BudgetError
from supernet.sampling import SamplingError
from supernet.search import shared_top1
from supernet.settings import Progress
from targets.unit import MILLISECONDS, Unit

FRONT, PLOT, WARMUP = "front.json", "front.html", "warmup.checkpoint"


def sweep(
    config: RunConfig,
    budgets: Sequence[str],
    *,
    out: Path | None = None,
    train: bool = False,
    database: Path | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """One run for each budget, in a folder of its own in `out`: the content of front.json.

    All runs start from one warm-up of the supernet's weights and one calibration. Each goes up to the derived network,
    measured, or with `train` to the trained one as it ships; `netlathe run --resume --out OUT/BUDGET` goes on with one.
    A budget that no network keeps is a point with an `error`. Killed and called again it goes on; called with other
    budgets it adds them to the front.

    Raises:
        ConfigError: no budget, or one that is none, or none for a target.
        TargetError: see `find_machine`.
        RunFolderError: `out` holds anything but an earlier sweep.
        Every other error of a run.
    """
    chosen = list(dict.fromkeys(make_config(**{**config.model_dump(), "budget": b}).budget for b in budgets))
    if not chosen:
        raise ConfigError("A sweep needs budgets: `--budgets 0.4x,0.6x,0.8x`.")
    machines = [find_machine(name, config.threads, config.dtype) for name in config.targets]
    for machine in machines:
        for budget in chosen:
            parse_budget(budget).seconds(1.0, machine)
    folder, unit = out or RUNS / f"sweep-{config.family}", machines[0].unit
    ranks.refuse("sweep")
    require_free_space(folder)
    claim_folder(folder, "sweep")
    points = [point for point in _earlier(config, folder, train) if point["budget"] not in chosen]
    for number, budget in enumerate(chosen, 1):
        say(f"Budget {budget}, {number} of {len(chosen)}.")
        point = config.model_copy(update={"budget": budget})
        points.append(_point(point, folder, train, database or default_database(), progress, say))
        front = on_front(points, unit)
        write_json(folder / FRONT, {"format": "netlathe-front/1", "points": front})
    write_atomically(folder / PLOT, front_of_points(front, unit).to_html(include_plotlyjs=True).encode())
    return {"sweep": str(folder), "plot": str(folder / PLOT), "points": front}


def _earlier(config: RunConfig, folder: Path, train: bool) -> list[dict[str, Any]]:
    """The points of sweeps before that differed in nothing but the budgets."""
    content = read_json(folder / FRONT) if (folder / FRONT).exists() else None
    return [
        point
        for point in (content or {}).get("points", [])
        if ("error" in point or ("top1" in point) == train)
        and (folder / point["run"] / "config.json").exists()
        and stored_config(folder / point["run"]) == config.model_copy(update={"budget": point["budget"]})
    ]


def _point(
    config: RunConfig, folder: Path, train: bool, database: Path, progress: Progress, say: Callable[[str], None]
) -> dict[str, Any]:
    place = folder / config.budget
    row: dict[str, Any] = {"budget": config.budget, "run": config.budget}
    try:
        with Run(place, config, resume=(place / "config.json").exists(), say=say) as opened:
            context = RunContext(config, place, database, progress, say, warmup=folder / WARMUP)
            results = perform(opened, context, "compile" if train else "derive")
    except (BudgetError, SamplingError) as error:
        return {**row, "error": str(error)}
    derived, searched, unit = results["derive"], results["search"], context.targets[0].unit
    last = next(epoch for epoch in reversed(searched["history"]) if not epoch["warmup"])
    row |= {
        "architecture": derived["architecture"],
        f"budget_{unit.key}": 1e3 * derived["budget_s"],
        f"predicted_{unit.key}": 1e3 * derived["predicted_s"],
        unit.measured_key: 1e3 * derived["measured_s"],
        "expected_over_budget": last["expected_over_budget"],
        "search_seconds": searched["seconds"] - searched["warmup_seconds"],
        "warmup_seconds": searched["warmup_seconds"],
    }
    also = results["compile"][ALSO] if train else derived[ALSO]
    row[ALSO] = {other.name: _elsewhere(also[other.name], other.unit, train) for other in context.targets[1:]}
    if train:
        row |= {
            "top1": results["train"]["winner"]["top1"],
            unit.measured_key: 1e3 * results["compile"]["winner"]["measured_s"],
        }
    else:
        row |= {"supernet_top1": _shared_top1(context, place)}
    return row


def _elsewhere(its: dict[str, Any], unit: Unit, train: bool) -> dict[str, Any]:
    measured_s = (its["winner"] if train else its)["measured_s"]
    return {f"budget_{unit.key}": 1e3 * its["budget_s"], unit.measured_key: 1e3 * measured_s}


def _shared_top1(context: RunContext, place: Path) -> float | None:
    """Of the derived network itself with the shared weights, on validation images."""
    return shared_top1(
        context.space,
        context.data,
        context.constraints,
        search_settings(context.space, context.config),
        place / "search" / SEARCH_CHECKPOINT,
        [block.choice for block in context.winner.blocks[1:]],
    )


def on_front(points: Sequence[dict[str, Any]], unit: Unit = MILLISECONDS) -> list[dict[str, Any]]:
    """Each point with `on_front`: whether none is as fast and more accurate, or faster and as accurate.

    Accuracy is `top1` on test images where networks were trained, else `supernet_top1` on validation images, with the
    shared weights of the network's own search; a network without one is not on the front.
    """

    def beats(a: dict[str, Any], b: dict[str, Any]) -> bool:
        gain, lead = (accuracy(a) or 0.0) - (accuracy(b) or 0.0), b[unit.measured_key] - a[unit.measured_key]
        return gain >= 0 and lead >= 0 and (gain > 0 or lead > 0)

    known = [point for point in points if accuracy(point) is not None]
    return [
        point
        if "error" in point
        else {**point, "on_front": point in known and not any(beats(other, point) for other in known)}
        for point in points
    ]


def accuracy(point: dict[str, Any]) -> float | None:
    """Of a point, a share; None where it is not known. See `on_front`."""
    return point.get("top1", point.get("supernet_top1"))
