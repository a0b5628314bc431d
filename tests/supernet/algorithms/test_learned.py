"""What gradient, two-path and reinforce share: limits, pruning, states."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from supernet.algorithms import ALGORITHMS
from supernet.costs import Constraint, latency
from supernet.settings import AlgorithmName, SearchSettings

LEARNED: tuple[AlgorithmName, ...] = ("gradient", "two-path", "reinforce")
pytestmark = pytest.mark.parametrize("name", LEARNED)


def make(name: AlgorithmName, known: Any, limit: float = 3.0, steps: int = 60, **changed: Any) -> Any:
    return ALGORITHMS[name](known.within(limit), SearchSettings(algorithm=name, samples=4, **changed), steps)


def run(algorithm: Any, known: Any, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        algorithm.step(known, generator)


def test_what_is_pruned_stays_so(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    known = known_losses(0)
    algorithm, given_up = make(name, known), set[tuple[int, int]]()
    for epoch in range(6):
        run(algorithm, known, 10, epoch)
        before = algorithm.probabilities()
        now = algorithm.prune(0.05)
        for block, k in now:
            assert before[block][k].item() < 0.05
            assert k != int(before[block].argmax())
        assert not given_up & {*now}
        given_up |= {*now}
        for block, p in enumerate(algorithm.probabilities()):
            assert {k for k, share in enumerate(p.tolist()) if share == 0.0} == {k for b, k in given_up if b == block}
            # 5 % of a block whose sum is 1, by what is left.
            assert p[p > 0].min().item() >= 0.05
            assert p.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert len(given_up) > 5
    for block, k in given_up:
        assert algorithm.alphas[block][k].item() == -math.inf
    for alpha in algorithm.alphas:
        assert algorithm.optimizer.state[alpha]["exp_avg_sq"].isfinite().all()


def test_one_candidate_left_is_taken_and_nothing_breaks(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    """In every block, and in some."""
    for blocks in ((0, 1, 2), (1,)):
        known = known_losses(0, blocks=3)
        algorithm = make(name, known)
        run(algorithm, known, 2)
        with torch.no_grad():
            for block in blocks:
                algorithm.alphas[block][[0, 1, 3, 4]] = -math.inf
        run(algorithm, known, 20, 1)
        for block in blocks:
            assert algorithm.probabilities()[block].tolist() == [0.0, 0.0, 1.0, 0.0, 0.0]
        assert all(p.isfinite().all() for p in algorithm.probabilities())
        assert algorithm.prune(0.49) == [] or blocks == (1,)


def test_a_block_of_one_candidate_has_nothing_to_decide(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    known = known_losses(0, blocks=3, candidates=1)
    algorithm = make(name, known)
    run(algorithm, known, 5)
    assert [p.tolist() for p in algorithm.probabilities()] == [[1.0]] * 3
    assert algorithm.prune(0.49) == []


def test_a_state_goes_on_to_the_same_bits(known_losses: Callable[..., Any], name: AlgorithmName) -> None:
    known = known_losses(0)
    whole, other = make(name, known), make(name, known)
    run(whole, known, 20)
    whole.prune(0.1)
    other.load_state_dict(deepcopy(whole.state_dict()))
    for algorithm in (whole, other):
        run(algorithm, known, 20, 1)
    for found, expected in zip(other.alphas, whole.alphas):
        assert torch.equal(found, expected)
    assert other.figures() == whole.figures()
    assert whole.figures()["latency_multiplier"] != 0.0


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_the_expectation_arrives_at_the_limit(
    known_losses: Callable[..., Any], name: AlgorithmName, share: float
) -> None:
    """Between the cheapest and the dearest network; within 5 % of it, a fifth of what one block decides.

    Losses of candidates differ by 0.5 to 2 here and costs by a twentieth of the limit, so multipliers of 40 are needed;
    those of cross-entropies are a tenth of that.
    """
    known = known_losses(0)
    least, most = (known.costs.fixed + sum(f(block) for block in known.costs.blocks) for f in (min, max))
    limit = least + share * (most - least)
    algorithm = make(name, known, limit, steps=300, alpha_travel=20.0, latency_travel=200.0)
    run(algorithm, known, 300)
    ((_, expected, _),) = algorithm.expected()
    assert expected.item() == pytest.approx(limit, rel=0.05)


def test_of_several_budgets_the_one_furthest_over_arrives_at_its_limit(
    known_losses: Callable[..., Any], name: AlgorithmName
) -> None:
    """Limits of two targets at the same expectation, then one of them so far away that only the other counts."""
    known, other = known_losses(0), known_losses(1)
    targets = [latency(known.costs, 1.0, "a"), latency(other.costs, 1.0, "b")]
    uniform = [torch.full((5,), 0.2)] * 7
    for slack in (1.0, 2.0):
        # What a network of average costs takes, so that both can be met.
        both = [replace(c, limit=s * float(c.costs.expected(uniform))) for c, s in zip(targets, (0.9, 0.9 * slack))]
        # Two limits take a multiplier of 25 where one takes 10: both are pulled by it in turns.
        settings = SearchSettings(algorithm=name, samples=10, alpha_travel=20.0, latency_travel=800.0)
        algorithm = ALGORITHMS[name](both, settings, 300)
        run(algorithm, known, 300)
        shares = [float(c.costs.expected(algorithm.probabilities())) / c.limit for c in both]
        assert max(shares) == pytest.approx(1.0, abs=0.05)
        # Both count where both can be met, and only the first where the second is twice what it needs.
        assert shares[1] < 0.8 if slack > 1.0 else min(shares) > 0.95


def test_the_budget_is_used_and_the_other_limits_are_only_kept(
    known_losses: Callable[..., Any], name: AlgorithmName
) -> None:
    """The first has a multiplier of either sign, the others one of zero or more; each its own."""
    known, other = known_losses(0), known_losses(1)
    rate = SearchSettings().latency_travel / 60

    def multipliers(*limits: float) -> list[float]:
        costs = (known.costs, other.costs, other.costs)
        constraints = [Constraint(key, cost, limit) for key, cost, limit in zip("abc", costs, limits)]
        constraints[0] = replace(constraints[0], budget=True)
        algorithm = ALGORITHMS[name](constraints, SearchSettings(algorithm=name, samples=4), 60)
        before = algorithm.expected()
        run(algorithm, known, 1)
        excess = [rate * math.log(cost / limit) for _, cost, limit in before]
        found = [algorithm.figures()[f"{key}_multiplier"] for key in ("latency", "b", "c")]
        assert found == pytest.approx([excess[0], *(max(0.0, part) for part in excess[1:])], rel=1e-6)
        assert algorithm.ranking() == []
        return found

    budget, tight, loose = multipliers(7.0, 3.0, 7.0)
    assert budget < 0.0 == loose < tight
    budget, tighter, tight = multipliers(3.0, 2.0, 3.0)
    assert budget > 0.0
    assert tighter > tight > 0.0
