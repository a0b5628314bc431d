from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.algorithms.reinforce import BASELINE_RATE, Reinforce
from supernet.penalties import Penalty
from supernet.settings import SearchSettings

SAMPLES = 4
SETTINGS = SearchSettings(algorithm="reinforce", samples=SAMPLES)
SHAPE = {"blocks": 3, "candidates": 4}
PATHS = list(product(range(4), repeat=3))
# Of sums of 64 products of float64 numbers of about 1, weighted by probabilities.
ROUNDING = 1e-13


def make(known: Any, settings: SearchSettings = SETTINGS, limit: float = 100.0) -> Reinforce:
    """In float64, with alphas as after some steps."""
    algorithm = Reinforce(known.within(limit), settings, 100)
    algorithm.distribution.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for alpha in algorithm.alphas:
            alpha.normal_(generator=generator)
    return algorithm


def exact(algorithm: Reinforce, known: Any) -> tuple[Tensor, ...]:
    """The gradient of minus the expected reward, by autograd through the sum over all paths."""
    terms = [algorithm.distribution.log_probability(path).exp() * known.accuracy(path) for path in PATHS]
    return torch.autograd.grad(-torch.stack(terms).sum(), algorithm.alphas)


def estimates(algorithm: Reinforce, paths: Sequence[Sequence[int]], advantages: Sequence[float]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(algorithm.surrogate(paths, advantages), algorithm.alphas)


@pytest.mark.parametrize("baseline", [-3.0, 0.0, 0.7, 50.0])
def test_the_estimate_is_unbiased_whatever_the_baseline(known_losses: Callable[..., Any], baseline: float) -> None:
    """Weighted by probability, the estimates of all paths sum to the exact gradient."""
    known = known_losses(0, **SHAPE)
    algorithm = make(known)
    mean = [torch.zeros(4, dtype=torch.float64) for _ in range(3)]
    for path in PATHS:
        share = algorithm.distribution.log_probability(path).exp().item()
        for total, gradient in zip(mean, estimates(algorithm, [path], [known.accuracy(path) - baseline])):
            total += share * gradient
    for total, expected in zip(mean, exact(algorithm, known)):
        torch.testing.assert_close(total, expected, rtol=0, atol=ROUNDING * max(1.0, abs(baseline)))
        assert expected.abs().max() > 1e-2


def test_several_paths_are_averaged(known_losses: Callable[..., Any]) -> None:
    algorithm = make(known_losses(0, **SHAPE))
    paths, advantages = [PATHS[3], PATHS[40], PATHS[3]], [0.2, -1.0, 0.5]
    each = [estimates(algorithm, [path], [a]) for path, a in zip(paths, advantages)]
    for found, parts in zip(estimates(algorithm, paths, advantages), zip(*each)):
        torch.testing.assert_close(found, sum(parts) / 3, rtol=0, atol=ROUNDING)


class Scripted:
    """An objective whose rewards are given."""

    def __init__(self, rewards: Sequence[float]) -> None:
        self.rewards = iter(rewards)

    def loss(self, path: Sequence[int], gates: object = None, among: object = None) -> Tensor:
        raise NotImplementedError

    def accuracy(self, path: Sequence[int]) -> float:
        return next(self.rewards)


def test_the_baseline_is_a_moving_average_of_the_rewards_before(known_losses: Callable[..., Any]) -> None:
    """So a step's advantages are of the baseline that stood before it; the first step has its own mean alone."""
    algorithm, given = make(known_losses(0, **SHAPE)), list[list[float]]()
    surrogate = algorithm.surrogate

    def spy(paths: Sequence[Sequence[int]], advantages: Sequence[float]) -> Tensor:
        given.append(list(advantages))
        return surrogate(paths, advantages)

    algorithm.surrogate = spy  # type: ignore[method-assign]
    rewards = [[0.1, 0.5, 0.2, 0.4], [0.9, 0.9, 0.8, 0.8], [0.3, 0.1, 0.0, 0.0], [0.6, 0.6, 0.6, 0.6]]
    objective, generator = Scripted([r for row in rewards for r in row]), torch.Generator().manual_seed(0)
    baseline = 0.3
    for row in rewards:
        algorithm.step(objective, generator)
        assert given[-1] == pytest.approx([r - baseline for r in row], abs=1e-15)
        mean = sum(row) / SAMPLES
        baseline = (1 - BASELINE_RATE) * baseline + BASELINE_RATE * mean
        assert algorithm.baseline == pytest.approx(baseline, abs=1e-15)
        assert algorithm.figures()["baseline_reward"] == algorithm.baseline
    assert BASELINE_RATE == 0.05


def test_the_first_step_has_the_right_direction(known_losses: Callable[..., Any]) -> None:
    """With the mean of its own n rewards the expected estimate is (1 - 1 / n) of the gradient: shorter, not wrong."""
    known = known_losses(0, **{**SHAPE, "candidates": 2})
    paths = list(product(range(2), repeat=3))
    algorithm = make(known, SearchSettings(algorithm="reinforce", samples=2))
    shares = {path: algorithm.distribution.log_probability(path).exp().item() for path in paths}
    mean = [torch.zeros(2, dtype=torch.float64) for _ in range(3)]
    algorithm.penalty = Penalty()
    for both in product(paths, repeat=2):
        algorithm.baseline, draws = None, iter(both)
        algorithm.sample = lambda generator, draws=draws: list(next(draws))  # type: ignore[method-assign]
        for total, gradient in zip(mean, algorithm.gradient(known, torch.Generator())):
            total += shares[both[0]] * shares[both[1]] * gradient
    terms = [algorithm.distribution.log_probability(path).exp() * known.accuracy(path) for path in paths]
    for total, expected in zip(mean, torch.autograd.grad(-torch.stack(terms).sum(), algorithm.alphas)):
        torch.testing.assert_close(total, expected / 2, rtol=0, atol=ROUNDING)


def test_costs_have_an_exact_gradient(known_losses: Callable[..., Any]) -> None:
    """Equal rewards teach nothing, so what is left is the limit's."""
    known = known_losses(0, **SHAPE)
    algorithm = make(known, limit=1.0)
    gradient = algorithm.gradient(Scripted([0.5] * SAMPLES), torch.Generator().manual_seed(0))
    term = algorithm.penalty.term(known.costs.expected(algorithm.distribution.probabilities()), 1.0)
    for found, expected in zip(gradient, torch.autograd.grad(term, algorithm.alphas)):
        torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
        assert expected.abs().max() > 1e-3


def test_the_power_form_is_in_the_rewards(known_losses: Callable[..., Any]) -> None:
    known = known_losses(0, **SHAPE)
    path = PATHS[17]
    reward = make(known, SearchSettings(algorithm="reinforce", penalty="power"), 2.0).reward(Scripted([0.5]), path)
    assert reward == pytest.approx(0.5 * (2.0 / known.costs.of(path)) ** 0.1)
    assert make(known, limit=2.0).reward(Scripted([0.5]), path) == 0.5


def test_a_state_has_the_baseline(known_losses: Callable[..., Any]) -> None:
    known = known_losses(0, **SHAPE)
    algorithm, other = make(known), make(known)
    assert algorithm.state_dict()["baseline"] is None
    algorithm.step(known, torch.Generator().manual_seed(0))
    other.load_state_dict(algorithm.state_dict())
    assert other.baseline == algorithm.baseline is not None
