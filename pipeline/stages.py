"""The order of the stages, what each rests on, and a run that performs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline import finding, ranks, shipping
from pipeline.context import Result, RunContext
from pipeline.run_folder import Run, RunFolderError
from targets.target import Target


@dataclass(frozen=True)
class Stage:
    """The work of a stage, and the earlier stages whose results or files it reads."""

    work: Callable[[RunContext, Path], Result]
    needs: tuple[str, ...] = ()


def _each_target(work: Callable[[RunContext, Path, Target], Result]) -> Callable[[RunContext, Path], Result]:
    """A stage that does the same for every target, each in its place."""

    def stage(context: RunContext, folder: Path) -> Result:
        def for_target(target: Target) -> Result:
            place = context.place(folder.name, target)
            place.mkdir(parents=True, exist_ok=True)
            return work(context, place, target)

        return context.for_each(for_target)

    return stage


STAGES: dict[str, Stage] = {
    "setup": Stage(finding.setup),
    "calibrate": Stage(_each_target(finding.calibrate), ("setup",)),
    "baseline": Stage(finding.baseline, ("setup", "calibrate")),
    "search": Stage(finding.search, ("setup", "calibrate", "baseline")),
    "derive": Stage(finding.derive, ("setup", "calibrate", "baseline", "search")),
    "train": Stage(shipping.train, ("setup", "derive")),
    "export": Stage(shipping.export, ("derive", "train")),
    "compile": Stage(shipping.compile, ("export",)),
    "verify": Stage(_each_target(shipping.verify), ("derive", "train", "compile")),
    "bench": Stage(_each_target(shipping.bench), ("derive", "compile")),
    "deploy": Stage(_each_target(shipping.deploy), ("derive", "compile", "verify")),
    "report": Stage(
        shipping.report,
        ("setup", "calibrate", "baseline", "search", "derive", "train", "compile", "verify", "bench", "deploy"),
    ),
}


def perform(run: Run, context: RunContext, until: str = "report") -> dict[str, Result]:
    """Every stage up to `until`, in order; what is stored and rests on nothing that changed is not done again.

    Raises:
        RunFolderError: the folder's measurements were made on another machine, or with other versions.
    """
    for name, stage in STAGES.items():
        context.progress(name, 0, 0, {})
        context.results[name] = run.perform(name, stage.needs, ranks.joint(name, stage.work, context))
        if name == "setup":
            _check_origin(context)
        if name == until:
            break
    if until == "report":
        shipping.publish(context)
    return context.results


def follow(context: Callable[[Path], RunContext]) -> None:
    """What a rank other than 0 does while rank 0 performs a run."""
    ranks.follow(context, {name: stage.work for name, stage in STAGES.items()})


def _check_origin(context: RunContext) -> None:
    for target in context.targets:
        there, here = context.result("setup", target)["target"]["fingerprint"], target.fingerprint
        if there != here:
            raise RunFolderError(
                f"{context.folder} was measured on {there}; this is {here}. Measurements of two machines do not mix: "
                "start a new run with another --out."
            )
    before, now = context.results["setup"]["versions"], finding.all_versions(context.targets)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        differences = ", ".join(f"{name} {before.get(name)} there, {now.get(name)} here" for name in changed)
        raise RunFolderError(
            f"{context.folder} was made with other versions ({differences}), and results of two versions do not mix: "
            "start a new run with another --out, or install those versions."
        )
