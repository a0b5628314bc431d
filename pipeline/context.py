"""What the stages of one run share: its config, its results so far, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.calibration import path_latency
from pipeline.config import RunConfig
from supernet.architecture import Architecture
from supernet.costs import LATENCY, Constraint, PathCosts, parameters
from supernet.data import ImageData, load_data
from supernet.settings import Progress
from supernet.space import SearchSpace
from supernet.space_file import find_space
from targets.target import Target, get_target
from tvm_latency.latency_table import LatencyTable

Result = dict[str, Any]


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
    def target(self) -> Target:
        """The machine, with the threads of the config.

        Raises:
            TargetError: there is no such target.
        """
        return get_target(self.config.target).with_threads(self.config.threads)

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
        return space if config.max_memory_kb is None else space.within_memory(int(1e3 * config.max_memory_kb))

    @cached_property
    def table(self) -> LatencyTable:
        """What the calibration stored."""
        return LatencyTable.load(self.folder / "calibrate" / "latency_table.json")

    @cached_property
    def latency(self) -> PathCosts:
        """The latency of every path of the space."""
        return path_latency(self.space, self.table, self.config.weights)

    @cached_property
    def constraints(self) -> tuple[Constraint, ...]:
        """What a network has to keep: the latency first, whose limit is the budget."""
        return (Constraint(LATENCY, self.latency, self.results["baseline"]["budget_s"]), *self.other_limits)

    @cached_property
    def other_limits(self) -> tuple[Constraint, ...]:
        """What a network has to keep beside the budget."""
        limit = self.config.max_params
        return () if limit is None else (parameters(self.space, limit),)

    @cached_property
    def winner(self) -> Architecture:
        """The derived network."""
        return Architecture.from_text(self.results["derive"]["architecture"], name="derived")

    @property
    def networks(self) -> dict[str, Architecture]:
        """The networks that are trained and compared, by their role."""
        return {"winner": self.winner, "baseline": self.space.baseline}
