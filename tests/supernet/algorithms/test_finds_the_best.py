"""Each algorithm on networks whose losses are all known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from supernet.algorithms import ALGORITHMS
from supernet.derive import most_probable
from supernet.settings import AlgorithmName, SearchSettings

SEEDS = range(10)
# The dearest network costs 7.5 at most.
NO_LIMIT = 100.0


def found(known: Any, limit: float, settings: SearchSettings, steps: int, seed: int) -> tuple[int, ...]:
    """The network that a search of so many steps ends with."""
    constraints = known.within(limit)
    algorithm, generator = ALGORITHMS[settings.algorithm](constraints, settings, steps), torch.Generator()
    generator.manual_seed(seed)
    for _ in range(steps):
        algorithm.step(known, generator)
    if ranking := algorithm.ranking():
        return ranking[0].path
    path = most_probable([p.tolist() for p in algorithm.probabilities()], constraints)
    assert path is not None
    return path


# Alphas of a block are independent of the other blocks', a mean field: where a choice is best only together with one
# of a neighbour, both are decided by what they are worth on average, and evolution alone can follow. So candidates are
# 0.5 apart by themselves and pairs change that by 0.05 * sqrt(3), three standard deviations of a difference. Steps are
# the fewest, to 10 or so, that were enough for all ten seeds: a gradient of every candidate tells them apart in 150
# evaluations of a network, one of two in 120; rewards of whole networks bury one block under the spread of six others.
# The penalty is linear, since the limit that this space has does not bind: `target` would move costs up to it.
@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        (SearchSettings(algorithm="gradient", penalty="linear"), 30),
        (SearchSettings(algorithm="two-path", penalty="linear"), 60),
        pytest.param(SearchSettings(algorithm="reinforce", penalty="linear", samples=10), 200, marks=pytest.mark.slow),
        (SearchSettings(algorithm="evolution", population=50), 6),
    ],
    ids=lambda value: value.algorithm if isinstance(value, SearchSettings) else f"{value} steps",
)
def test_the_best_of_78125_networks(known_losses: Callable[..., Any], settings: SearchSettings, steps: int) -> None:
    """In nine of ten seeds, and better on average than as many random networks."""
    best, losses, of_random = 0, 0.0, 0.0
    for seed in SEEDS:
        known = known_losses(seed)
        path = found(known, NO_LIMIT, settings, steps, seed)
        work = known.evaluations
        best += path == known.best(NO_LIMIT)[0]
        losses += known.loss(path).item()
        of_random += known.loss(
            found(known, NO_LIMIT, SearchSettings(algorithm="random", population=work), 1, seed)
        ).item()
        assert known.evaluations == 2 * work, "both did the same work"
    assert best >= 9
    assert losses < of_random


def test_random_search_finds_the_best_of_what_it_can_nearly_exhaust(known_losses: Callable[..., Any]) -> None:
    """120 of 125 networks: the best is among them in 96 % of searches."""
    best = 0
    for seed in SEEDS:
        known = known_losses(seed, blocks=3)
        path = found(known, NO_LIMIT, SearchSettings(algorithm="random", population=10), 12, seed)
        assert known.evaluations == 120
        best += path == known.best(NO_LIMIT)[0]
    assert best >= 9


@pytest.mark.parametrize(
    ("algorithm", "steps"),
    [("gradient", 100), ("two-path", 100), ("reinforce", 60), ("evolution", 10), ("random", 10)],
)
def test_a_limit_that_binds_is_kept(known_losses: Callable[..., Any], algorithm: AlgorithmName, steps: int) -> None:
    """And what it leaves is used: of the networks within it, nine of ten are worse."""
    for seed in (0, 1):
        known = known_losses(seed, blocks=5)
        unlimited, _ = known.best(NO_LIMIT)
        (free,) = known.within(NO_LIMIT)
        cheapest = free.costs.of(free.costs.cheapest())
        limit = (cheapest + free.costs.of(unlimited)) / 2
        path = found(known, limit, SearchSettings(algorithm=algorithm, population=30), steps, seed)
        (constraint,) = known.within(limit)
        assert constraint.allows(path)
        assert not constraint.allows(unlimited)
        assert known.loss(path).item() < known.quantile(limit, 0.1)
