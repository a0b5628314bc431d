"""Search: the weights of a supernet and what decides between its paths, trained in turns within limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from supernet import parallel
from supernet.algorithms import ALGORITHMS
from supernet.algorithms.interface import Ranked
from supernet.architecture import Choice
from supernet.augment import augmentation
from supernet.checkpoint import Notice, load_checkpoint, log_notice, save_checkpoint
from supernet.costs import Constraint, split
from supernet.data import ImageData
from supernet.derive import path_of
from supernet.loop import Augmentation, seeded
from supernet.settings import Progress, SearchSettings
from supernet.space import SearchSpace
from supernet.weights import SearchError, SuperNetWeights, warm_up

__all__ = ["SearchError", "SearchResult", "search", "shared_top1"]


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    probabilities: of each candidate of each block.
    ranking: networks that were evaluated one by one, best first; empty where only probabilities were learnt.
    history: one row of figures for each epoch, and for each generation.
    seconds: of it all; warmup_seconds: of the warm-up, which searches of other budgets can share.
    """

    probabilities: tuple[tuple[float, ...], ...]
    ranking: tuple[Ranked, ...]
    history: list[dict[str, Any]]
    seconds: float
    warmup_seconds: float


def search(
    space: SearchSpace,
    data: ImageData,
    constraints: Sequence[Constraint],
    settings: SearchSettings,
    checkpoint: Path,
    progress: Progress,
    *,
    warmup: Path | None = None,
    augment: Augmentation | None = None,
    device: str | None = None,
    notice: Notice = log_notice,
    clock: Callable[[], float] = time.perf_counter,
) -> SearchResult:
    """Search `space` for its best network within `constraints` (ProxylessNAS, arXiv 1812.00332, sections 3.2 and 3.3).

    First the weights alone, along uniformly random paths. Then, with an interleaved algorithm, steps of the weights
    (training split, a sampled path) and of what decides (validation split) in turns; with any other the weights learn
    to the end, and networks are evaluated after that. Continues from `checkpoint` where there is one, and ends with the
    same bits (on a CPU) as a search that was never stopped. The warm-up has a checkpoint of its own, `warmup`: it
    depends on no constraint, so searches that differ in nothing else share it.

    `augment` is what suits the data unless given. Where there is a process group, its ranks share every batch, and rank
    0 writes.

    Raises:
        SearchError: the loss is no longer a number.
        CheckpointError: a checkpoint belongs to another search.
        CostError: costs that are not for this space, or none of them a budget.
        SamplingError: the algorithm draws networks within the limits, and there is none.
    """
    split(constraints)
    for constraint in constraints:
        constraint.costs.check(space)
    augment = augment or augmentation(data.name, data.resolution)
    weights = SuperNetWeights(
        space, data, settings, augment, torch.device(device) if device else parallel.local_device()
    )
    run = _Search(weights, constraints)
    owner = _owner(space, data, constraints, settings)
    saved = load_checkpoint(checkpoint, owner, notice)
    if saved is not None:
        run.load_state(saved)
    else:
        warm_up(weights, warmup or checkpoint.with_suffix(".warmup.checkpoint"), run.rounds, progress, notice, clock)
        run.history, run.warmup_seconds, run.seconds = list(weights.history), weights.seconds, weights.seconds
    started = clock() - run.seconds
    while len(run.history) < run.rounds:
        figures = run.round()
        run.seconds = clock() - started
        save_checkpoint(checkpoint, owner, run.state())
        progress("search", len(run.history), run.rounds, figures)
    return SearchResult(
        probabilities=run.probabilities(),
        ranking=tuple(run.algorithm.ranking()),
        history=run.history,
        seconds=run.seconds,
        warmup_seconds=run.warmup_seconds,
    )


def shared_top1(
    space: SearchSpace,
    data: ImageData,
    constraints: Sequence[Constraint],
    settings: SearchSettings,
    checkpoint: Path,
    choices: Sequence[Choice],
    device: str | None = None,
) -> float | None:
    """Top-1 on the validation split of a network with the shared weights that a search left in its checkpoint.

    None where the search gave up one of its candidates, and where there is no checkpoint.

    Raises:
        CheckpointError: the checkpoint belongs to another search.
    """
    place = torch.device(device) if device else parallel.local_device()
    weights = SuperNetWeights(space, data, settings, augmentation(data.name, data.resolution), place)
    saved = load_checkpoint(checkpoint, _owner(space, data, constraints, settings))
    path = path_of(space, choices)
    if saved is None or any([block, k] in saved["weights"]["pruned"] for block, k in enumerate(path)):
        return None
    weights.load_state(saved["weights"])
    return weights.validation_top1(path)


def _owner(
    space: SearchSpace, data: ImageData, constraints: Sequence[Constraint], settings: SearchSettings
) -> dict[str, str | float]:
    return {
        "space": repr(space),
        "data": data.digest,
        "constraints": repr(tuple(constraints)),
        **asdict(settings),
    }


class _Search:
    """Everything that changes while a search runs."""

    def __init__(self, weights: SuperNetWeights, constraints: Sequence[Constraint]) -> None:
        self.weights, self.settings, self.constraints = weights, weights.settings, tuple(constraints)
        algorithm = ALGORITHMS[self.settings.algorithm]
        alpha_steps = self.settings.epochs * weights.steps // self.settings.weight_steps_per_alpha_step
        self.algorithm = algorithm(self.constraints, self.settings, max(1, alpha_steps))
        self.learning = self.settings.warmup_epochs + self.settings.epochs
        self.rounds = self.learning + (0 if self.algorithm.interleaved else self.settings.generations)
        self.history: list[dict[str, Any]] = []
        self.seconds = self.warmup_seconds = 0.0

    def round(self) -> dict[str, float]:
        """One epoch of the weights, or one generation after them; the figures it ends with."""
        done, learning = len(self.history), self.learning
        with seeded(self.settings.seed, done + 1, self.weights.device) as generator:
            if done < learning:
                loss = {"loss": self._epoch(done, generator)}
            else:
                loss = {}
                self.algorithm.step(self.weights.judged, generator)
        pruned = self._prune() if done < learning else []
        figures = {**loss, **self._figures()}
        probabilities = [list(p) for p in self.probabilities()]
        row = {"warmup": False, "epoch": done + 1, "pruned": pruned, "probabilities": probabilities}
        self.history.append({**row, **figures})
        return figures

    def _epoch(self, done: int, generator: torch.Generator) -> float:
        every, losses = self.settings.weight_steps_per_alpha_step, []
        for step, batch in enumerate(self.weights.batches(generator)):
            losses.append(self.weights.step(batch, done, step, self.algorithm.sample(generator), generator))
            searched = (done - self.settings.warmup_epochs) * self.weights.steps + step + 1
            if self.algorithm.interleaved and searched % every == 0:
                self.algorithm.step(self.weights.validation_batch(generator), generator)
                self._check_probabilities(done)
        return sum(losses) / len(losses)

    def _check_probabilities(self, done: int) -> None:
        if not all(bool(p.isfinite().all()) for p in self.algorithm.probabilities()):
            raise SearchError(
                f"The loss of the alphas is no number in epoch {done + 1} of the search. The usual cause is the "
                f"learning rate ({self.settings.lr:.3g}): lower it and start the search over."
            )

    def _prune(self) -> list[list[int]]:
        """Give up unlikely candidates and their weights; (block, candidate) of each."""
        pruned = self.algorithm.prune(self.settings.prune_below)
        self.weights.prune(pruned)
        return [list(pair) for pair in pruned]

    @torch.no_grad()
    def _figures(self) -> dict[str, float]:
        probabilities = self.algorithm.probabilities()
        path = [int(p.argmax()) for p in probabilities]
        expected = {c.name: float(c.costs.expected(probabilities)) for c in self.constraints}
        return {
            "validation_top1": self.weights.validation_top1(path),
            "expected_over_budget": max(expected[c.name] / c.limit for c in split(self.constraints)[0]),
            **{f"expected_{name.replace(' ', '_')}": cost for name, cost in expected.items()},
            "entropy": float(torch.stack([torch.special.entr(p).sum() for p in probabilities]).mean()),
            "candidates": float(sum(int((p > 0).sum()) for p in probabilities)),
            **self.algorithm.figures(),
        }

    def probabilities(self) -> tuple[tuple[float, ...], ...]:
        """As numbers."""
        return tuple(tuple(p.tolist()) for p in self.algorithm.probabilities())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. No generator is in it: each round seeds its own."""
        return {
            "weights": self.weights.state(),
            "algorithm": self.algorithm.state_dict(),
            "history": self.history,
            "seconds": self.seconds,
            "warmup_seconds": self.warmup_seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.weights.load_state(state["weights"])
        self.algorithm.load_state_dict(state["algorithm"])
        self.history, self.seconds = state["history"], state["seconds"]
        self.warmup_seconds = state["warmup_seconds"]
