"""What the stages of one run share: its config, its results so far, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.calibration import path_latency
from pipeline.config import ALSO, RunConfig
from pipeline.machine import find_machine
from supernet.architecture import Architecture
from supernet.costs import Constraint, latency, parameters, weighted
from supernet.data import ImageData, load_data
from supernet.settings import Progress
from supernet.space import SearchSpace
from supernet.space_file import find_space
from targets.target import DTYPE_BYTES, Target
from tvm_latency.latency_table import LatencyTable

Result = dict[str, Any]
MeasuredAndBudget = tuple[float, float]
"""Seconds of a network on a target, and those of the budget at the same time."""


class RunContext:
    """One run while it goes on.

    folder: the run folder, each stage's files in a folder of its own.
    results: what each stage performed so far has stored, by its name.
    say: takes a sentence for the user.
    warmup: the checkpoint of a warm-up that several runs share; None for one of its own.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        database: Path,
        progress: Progress,
        say: Callable[[str], None],
        warmup: Path | None = None,
    ) -> None:
        self.config, self.folder, self.database, self.progress, self.say = config, folder, database, progress, say
        self.warmup = warmup
        self.results: dict[str, Result] = {}

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """The machines that the network is for, with the threads and the arithmetic of the config.

        Raises:
            TargetError: there is no such target.
        """
        return tuple(find_machine(name, self.config.threads, self.config.dtype) for name in self.config.targets)

    def result(self, stage: str, target: Target) -> Result:
        """What a stage has stored of a target."""
        found: Result = self.results[stage]
        if target.name != self.config.target:
            return found[ALSO][target.name]  # type: ignore[no-any-return]
        return {name: value for name, value in found.items() if name != ALSO}

    def place(self, stage: str, target: Target) -> Path:
        """Where a stage has its files for a target: of the first, its folder; of another, one in that."""
        folder = self.folder / stage
        return folder if target.name == self.config.target else folder / target.file_name

    def for_each(self, work: Callable[[Target], Result]) -> Result:
        """The result of a stage from those of every target, done one after the other."""
        first, *others = self.targets
        return {**work(first), ALSO: {target.name: work(target) for target in others}}

    @cached_property
    def data(self) -> ImageData:
        """The images, at the space's resolution.

        Raises:
            DataError: they cannot be read or trained on.
        """
        data = load_data(self.config.data, self.given_space.resolution, self.config.seed)
        for note in data.notes:
            self.say(note)
        return data

    @cached_property
    def space(self) -> SearchSpace:
        """The space, for the classes of the data."""
        return self.given_space.with_classes(self.results["setup"]["classes"])

    @cached_property
    def given_space(self) -> SearchSpace:
        """The space as the config has it, for the classes that its author thought of.

        Raises:
            SpaceError: it does not exist, or no network has that width, resolution and memory.
        """
        config, source = self.config, self.results["setup"]["space_source"]
        # A file of the user's may change; what counts is the copy that setup has made.
        copy = self.folder / "setup" / Path(source).name
        space = find_space(str(copy) if copy.exists() else source)
        space = space.for_task(resolution=config.resolution, width=config.width)
        return space if config.max_memory_kb is None else space.within_memory(_in_float32(config))

    def table(self, target: Target) -> LatencyTable:
        """What the calibration stored."""
        return LatencyTable.load(self.place("calibrate", target) / "latency_table.json")

    def latency_budget(self, target: Target) -> Constraint:
        """What the paths of the space take on a target, and may."""
        costs = path_latency(self.space, self.table(target), self.config.weights, target.batch)
        name = target.name if self.config.also else ""
        unit = target.unit
        return latency(costs, self.result("baseline", target)["budget_s"], name, unit.name, unit.cost)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """What a network has to keep: the budget of every target, or their weighted mean, then everything else."""
        budgets = [self.latency_budget(target) for target in self.targets]
        if shares := self.config.shares:
            budgets = [weighted(budgets, shares)]
        limit = self.config.max_params
        return (*budgets, *(() if limit is None else (parameters(self.space, limit),)))

    def measured_budgets(self, measured: Mapping[str, MeasuredAndBudget]) -> list[MeasuredAndBudget]:
        """What was measured on each target, in the order and the units of the budgets among the constraints."""
        pairs = [measured[target.name] for target in self.targets]
        if not (shares := self.config.shares):
            return pairs
        budget_s = pairs[0][1]
        over = sum(share * took / allowed for share, (took, allowed) in zip(shares, pairs)) / sum(shares)
        return [(over * budget_s, budget_s)]

    @cached_property
    def winner(self) -> Architecture:
        """The derived network."""
        return Architecture.from_text(self.results["derive"]["architecture"], name="derived")

    @property
    def networks(self) -> dict[str, Architecture]:
        """The networks that are trained and compared, by their role."""
        return {"winner": self.winner, "baseline": self.space.baseline}


def _in_float32(config: RunConfig) -> int:
    """The limit of memory as a space counts it, which has four bytes in every number."""
    assert config.max_memory_kb is not None
    return int(1e3 * config.max_memory_kb) * DTYPE_BYTES["float32"] // DTYPE_BYTES[config.dtype]
