"""Random search and evolution."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch

from supernet.algorithms import ALGORITHMS
from supernet.algorithms.evaluated import Evolution, RandomSearch
from supernet.algorithms.interface import Ranked
from supernet.costs import Constraint, PathCosts
from supernet.settings import AlgorithmName, SearchSettings

EVALUATED: tuple[AlgorithmName, ...] = ("evolution", "random")


def make(name: AlgorithmName, constraints: Any, population: int = 20) -> Any:
    return ALGORITHMS[name](constraints, SearchSettings(algorithm=name, population=population), 1)


def run(algorithm: Any, known: Any, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        algorithm.step(known, generator)


@pytest.mark.parametrize("name", EVALUATED)
def test_every_network_is_within_every_limit_and_looked_at_once(
    known_losses: Callable[..., Any], name: AlgorithmName
) -> None:
    known, other = known_losses(0), known_losses(1)
    limits = [*known.within(3.0), Constraint("parameters", other.costs, 3.5)]
    algorithm = make(name, limits)
    run(algorithm, known, 5)
    assert known.evaluations == 100 == algorithm.figures()["evaluated"]
    ranking = algorithm.ranking()
    assert len({ranked.path for ranked in ranking}) == 100
    assert all(limit.allows(ranked.path) for limit in limits for ranked in ranking)
    assert [ranked.reward for ranked in ranking] == sorted((r.reward for r in ranking), reverse=True)
    assert all(ranked.reward == -known.loss(ranked.path).item() for ranked in ranking[:5])
    assert algorithm.figures()["best_reward"] == ranking[0].reward


@pytest.mark.parametrize("name", EVALUATED)
def test_probabilities_are_the_shares_of_the_best_fifth(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    known = known_losses(0)
    algorithm = make(name, known.within(3.0))
    assert [p.tolist() for p in algorithm.probabilities()] == [pytest.approx([0.2] * 5)] * 7
    run(algorithm, known, 2)
    best = [ranked.path for ranked in algorithm.ranking()[:4]]
    for block, p in enumerate(algorithm.probabilities()):
        assert p.tolist() == [sum(path[block] == k for path in best) / 4 for k in range(5)]
    assert algorithm.prune(0.4) == []


@pytest.mark.parametrize("name", EVALUATED)
def test_a_space_may_run_out_of_networks(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    """Eight of them; one where the limit leaves one, or where there is one candidate for each block."""
    known = known_losses(0, blocks=3, candidates=2)
    algorithm = make(name, known.within(100.0))
    run(algorithm, known, 3)
    assert {ranked.path for ranked in algorithm.ranking()} == {*product(range(2), repeat=3)}
    assert algorithm.ranking()[0].path == known.best(100.0)[0]

    costs = PathCosts(1.0, ((1.0, 9.0), (9.0, 1.0), (1.0, 9.0)))
    tight = make(name, [Constraint("latency", costs, 4.5)])
    run(tight, known, 2)
    assert [ranked.path for ranked in tight.ranking()] == [(0, 1, 0)]

    one = known_losses(0, blocks=3, candidates=1)
    alone = make(name, one.within(100.0))
    run(alone, one, 2)
    assert [ranked.path for ranked in alone.ranking()] == [(0, 0, 0)]
    assert [p.tolist() for p in alone.probabilities()] == [[1.0]] * 3
    assert alone.sample(torch.Generator()) == [0, 0, 0]


@pytest.mark.parametrize("name", EVALUATED)
def test_a_state_goes_on_with_the_same_networks(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    known = known_losses(0)
    whole, other = (make(name, known.within(3.0)) for _ in range(2))
    run(whole, known, 2)
    other.load_state_dict(whole.state_dict())
    for algorithm in (whole, other):
        run(algorithm, known, 2, 1)
    assert other.ranking() == whole.ranking()
    assert other.state_dict() == whole.state_dict()


@pytest.mark.parametrize("name", EVALUATED)
def test_weights_learn_along_uniform_paths(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    """Those that are over a limit too: their operators are others' operators."""
    algorithm, draws = make(name, known_losses(0).within(3.0)), 2000
    generator = torch.Generator().manual_seed(0)
    counts = torch.bincount(torch.tensor([algorithm.sample(generator)[2] for _ in range(draws)]), minlength=5)
    sigma = (draws * 0.2 * 0.8) ** 0.5
    assert (counts - draws / 5).abs().max().item() < 4 * sigma


def test_of_equal_networks_the_first_is_first(known_losses: Callable[..., Any]) -> None:
    algorithm = make("random", known_losses(0).within(3.0))
    algorithm.load_state_dict({"paths": [[0] * 7, [1] * 7, [2] * 7], "rewards": [0.5, 0.7, 0.7]})
    assert [ranked.path[0] for ranked in algorithm.ranking()] == [1, 2, 0]


def test_children_are_crossings_or_changes_of_their_parents(known_losses: Callable[..., Any]) -> None:
    known = known_losses(0)
    algorithm = Evolution(known.within(100.0), SearchSettings(), 1)
    parents = [Ranked((0,) * 7, 0.9), Ranked((1,) * 7, 0.8)]
    generator, children = torch.Generator().manual_seed(0), list[tuple[int, ...]]()
    for _ in range(400):
        children.append(tuple(algorithm.propose(parents, generator)))
    crossed = [child for child in children if {*child} == {0, 1}]
    # A changed block takes 2, 3 or 4 with probability 0.6.
    changed = [child for child in children if {*child} & {2, 3, 4}]
    assert len(crossed) > 50
    assert len(changed) > 50
    for child in changed:
        mine = max((0, 1), key=child.count)
        assert child.count(mine) >= 2
        assert sum(k != mine for k in child) < 7
    few = sum(sum(k in (2, 3, 4) for k in child) <= 2 for child in changed)
    assert few > 0.7 * len(changed), "a block in ten, and one for sure"


def test_children_over_a_limit_give_way_to_random_networks(known_losses: Callable[..., Any]) -> None:
    """Where all that parents can have is over it."""
    costs = PathCosts(1.0, ((9.0, 0.1), (9.0, 0.1), (9.0, 0.1), (9.0, 0.1), (9.0, 0.1), (9.0, 0.1), (9.0, 0.1)))
    limit = Constraint("latency", costs, 2.0)
    algorithm = Evolution([limit], SearchSettings(), 1)
    parents = [Ranked((0,) * 7, 0.9), Ranked((0,) * 7, 0.8)]
    assert tuple(algorithm.propose(parents, torch.Generator().manual_seed(0))) == (1,) * 7
    assert tuple(RandomSearch([limit], SearchSettings(), 1).propose([], torch.Generator())) == (1,) * 7
