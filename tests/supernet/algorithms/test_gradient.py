from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.algorithms.gradient import Gradient, TwoPath
from supernet.algorithms.learned import Learned
from supernet.binarised import BinarisedBlock
from supernet.penalties import Penalty
from supernet.presets import DIGITS
from supernet.settings import SearchSettings

SETTINGS = SearchSettings()
# Of sums of a few dozen float64 numbers of about 1.
ROUNDING = 1e-13


def make(kind: type[Learned], known: Any, limit: float = 4.0, steps: int = 100) -> Any:
    """In float64, with alphas as after some steps."""
    algorithm = kind(known.within(limit), SETTINGS, steps)
    algorithm.distribution.double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for alpha in algorithm.alphas:
            alpha.normal_(generator=generator)
    return algorithm


def free_of_limits(algorithm: Any) -> Any:
    algorithm.penalty = Penalty()
    return algorithm


def softmax_within(alpha: Tensor, pair: Sequence[int]) -> Tensor:
    """What the pair's probabilities are if there is no other candidate."""
    weights = torch.stack([alpha[k].exp() if k in pair else alpha.new_zeros(()) for k in range(len(alpha))])
    return weights / weights.sum()


def test_the_expected_gradient_is_that_of_the_mixture(known_losses: Callable[..., Any]) -> None:
    """The loss is linear in the gates of each block, so the mean over all paths is exact; no path is left out."""
    known = known_losses(0, blocks=3, interaction=0.5)
    algorithm = free_of_limits(make(Gradient, known))
    mean = [torch.zeros(5, dtype=torch.float64) for _ in range(3)]
    for path in product(range(5), repeat=3):
        algorithm.sample = lambda generator, path=path: list(path)
        share = algorithm.distribution.log_probability(path).exp().detach()
        for total, gradient in zip(mean, algorithm.gradient(known, torch.Generator())):
            total += share * gradient
    loss = known.mixture(torch.stack(algorithm.distribution.probabilities()))
    for total, exact in zip(mean, torch.autograd.grad(loss, algorithm.alphas)):
        torch.testing.assert_close(total, exact, rtol=0, atol=ROUNDING)
        assert exact.abs().max() > 1e-3


def test_the_limit_adds_its_own_gradient(known_losses: Callable[..., Any]) -> None:
    """(multiplier + damping * log(E / T)) / E * dE / dalpha, whatever was sampled."""
    known = known_losses(0, blocks=3)
    algorithm = make(Gradient, known, limit=1.2)
    algorithm.penalty.multiplier = 0.4
    with_limit = algorithm.gradient(known, torch.Generator().manual_seed(0))
    without = free_of_limits(algorithm).gradient(known, torch.Generator().manual_seed(0))
    probabilities = [p.detach() for p in algorithm.distribution.probabilities()]
    expected = known.costs.expected(probabilities).item()
    pull = (0.4 + SETTINGS.latency_damping * math.log(expected / 1.2)) / expected
    for found, rest, p, costs in zip(with_limit, without, probabilities, known.costs.blocks):
        f = p.new_tensor(costs)
        torch.testing.assert_close(found - rest, pull * p * (f - p @ f), rtol=0, atol=ROUNDING)


PAIRS = ([0, 3], [4, 1], [2, 3])


@pytest.mark.parametrize("interaction", [0.0, 0.5])
def test_the_gradient_within_pairs_is_that_of_the_dense_mixture_over_them(
    known_losses: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, interaction: float
) -> None:
    """In the mean over the paths of the pairs; without interaction for each of them."""
    known = known_losses(0, blocks=3, interaction=interaction)
    algorithm = free_of_limits(make(TwoPath, known))
    algorithm._pairs = lambda generator: [list(pair) for pair in PAIRS]
    within = [softmax_within(alpha, pair) for alpha, pair in zip(algorithm.alphas, PAIRS)]
    exact = torch.autograd.grad(known.mixture(torch.stack(within)), algorithm.alphas)
    mean = [torch.zeros(5, dtype=torch.float64) for _ in PAIRS]
    for path in product(*PAIRS):
        drawn = iter(path)
        with monkeypatch.context() as patch:
            patch.setattr(torch, "multinomial", lambda *_, drawn=drawn, **__: torch.tensor([next(drawn)]))
            gradient = algorithm.gradient(known, torch.Generator())
        share = math.prod(q[k].item() for q, k in zip(within, path))
        for total, found, expected in zip(mean, gradient, exact):
            total += share * found
            if interaction == 0.0:
                torch.testing.assert_close(found, expected, rtol=0, atol=ROUNDING)
    for total, expected, pair in zip(mean, exact, PAIRS):
        torch.testing.assert_close(total, expected, rtol=0, atol=ROUNDING)
        assert set(expected.nonzero().flatten().tolist()) == set(pair)


@pytest.mark.parametrize("chosen", [1, 3])
def test_the_gradient_within_a_pair_of_real_operators_is_that_of_their_mixture(chosen: int) -> None:
    """One block of the digits, and a loss that is linear in its output: whichever of the pair runs."""
    torch.manual_seed(0)
    space_block, pair = DIGITS.blocks[1], [1, 3]
    block = BinarisedBlock(space_block).double()
    side = space_block.size
    x = torch.randn(2, space_block.in_channels, side, side, dtype=torch.float64)
    c = torch.randn(2, space_block.out_channels, side, side, dtype=torch.float64)
    alpha = torch.randn(len(space_block.candidates), dtype=torch.float64, requires_grad=True)
    q = softmax_within(alpha, pair)
    (found,) = torch.autograd.grad((c * block(x, chosen, q, pair)).sum(), alpha, retain_graph=True)
    dense = sum(q[k] * block.candidates[k](x) for k in pair)
    (expected,) = torch.autograd.grad((c * dense).sum(), alpha)
    # A sum of 2 * 16 * 16 * 16 products of about 1.
    torch.testing.assert_close(found, expected, rtol=0, atol=8192 * 2.0**-52)
    assert expected.abs().max() > 1e-2


def test_the_cost_of_pairs_has_its_true_value_and_the_slope_within_them(known_losses: Callable[..., Any]) -> None:
    known = known_losses(0, blocks=3)
    algorithm = make(TwoPath, known, limit=1.2)
    algorithm._pairs = lambda generator: [list(pair) for pair in PAIRS]
    with_limit = algorithm.gradient(known, torch.Generator().manual_seed(0))
    without = free_of_limits(algorithm).gradient(known, torch.Generator().manual_seed(0))
    expected = known.costs.expected([p.detach() for p in algorithm.distribution.probabilities()]).item()
    pull = SETTINGS.latency_damping * math.log(expected / 1.2) / expected
    for found, rest, alpha, pair, costs in zip(with_limit, without, algorithm.alphas, PAIRS, known.costs.blocks):
        q = softmax_within(alpha.detach(), pair)
        f = q.new_tensor(costs)
        torch.testing.assert_close(found - rest, pull * q * (f - q @ f), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("pruned", [False, True])
def test_a_step_of_pairs_moves_no_other_probability(known_losses: Callable[..., Any], pruned: bool) -> None:
    """For 400 steps, after which most are nearly decided; nor the sum of the pair."""
    known = known_losses(0)
    algorithm = TwoPath(known.within(3.0), SETTINGS, 400)
    algorithm.distribution.double()
    if pruned:
        with torch.no_grad():
            algorithm.alphas[0][[0, 2, 3]] = -math.inf
            algorithm.alphas[1][[0, 1, 3, 4]] = -math.inf
    generator, draw, pairs = torch.Generator().manual_seed(0), algorithm._pairs, list[list[int]]()

    def spy(generator: torch.Generator) -> list[list[int]]:
        pairs[:] = draw(generator)
        return pairs

    algorithm._pairs = spy  # type: ignore[method-assign]
    start = algorithm.probabilities()
    for _ in range(400):
        before = algorithm.probabilities()
        algorithm.step(known, generator)
        for p, q, pair in zip(before, algorithm.probabilities(), pairs, strict=True):
            others = [k for k in range(5) if k not in pair]
            torch.testing.assert_close(q[others], p[others], rtol=0, atol=1e-12)
            assert q[pair].sum().item() == pytest.approx(p[pair].sum().item(), abs=1e-12)
            assert q.isfinite().all()
    moved = [(p - q).abs().max().item() for p, q in zip(start, algorithm.probabilities())]
    # A block that has one candidate left has nothing to decide.
    assert min(moved[2:]) > 0.3
    assert moved[1] == 0.0 if pruned else moved[1] > 0.3


def test_pairs_are_two_different_candidates_drawn_by_their_probabilities(known_losses: Callable[..., Any]) -> None:
    known = known_losses(0, blocks=2)
    algorithm = TwoPath(known.within(4.0), SETTINGS, 100)
    with torch.no_grad():
        algorithm.alphas[0].copy_(torch.tensor([0.5, 0.3, 0.2, 0.0, 0.0]).log())
    generator, draws = torch.Generator().manual_seed(0), 2000
    drawn = [algorithm._pairs(generator) for _ in range(draws)]
    assert all(len(set(pair)) == 2 for pairs in drawn for pair in pairs)
    # Without replacement: 0.5 * 0.3 / 0.5 + 0.3 * 0.5 / 0.7.
    p = 0.3 + 0.3 * 0.5 / 0.7
    share = sum(set(first) == {0, 1} for first, _ in drawn) / draws
    assert abs(share - p) < 4 * (p * (1 - p) / draws) ** 0.5
