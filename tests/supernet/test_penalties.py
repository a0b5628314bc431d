from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from supernet.costs import PathCosts
from supernet.penalties import PENALTIES, BoundPenalty, LinearPenalty, Penalty, PowerPenalty, TargetPenalty
from supernet.settings import PenaltyName

FORMS: dict[str, Callable[..., Penalty]] = {**PENALTIES, "bound": BoundPenalty}
SECONDS = st.sampled_from([1e-6, 1e-3, 1.0]) | st.floats(1e-6, 1.0)
# exp underflows in float32 beyond 104, so probabilities of exactly 0 and 1 occur.
ALPHAS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=3, max_size=3)


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64, requires_grad=True)


def slope(penalty: Penalty, loss: float, expected: float, limit: float) -> float:
    x = scalar(expected)
    (grad,) = torch.autograd.grad(penalty.total(scalar(loss), x, limit), x)
    return grad.item()


def test_settings_have_a_penalty_for_each_name() -> None:
    assert tuple(PENALTIES) == get_args(PenaltyName)


@pytest.mark.parametrize("name", list(FORMS))
@given(
    limit=SECONDS,
    scale=SECONDS,
    alpha=ALPHAS,
    pruned=st.booleans(),
    multiplier=st.floats(-1e4, 1e4),
    loss=st.floats(0.0, 100.0),
)
@example(limit=1e-6, scale=1.0, alpha=[1e4, -1e4, 0.0], pruned=True, multiplier=1e4, loss=2.3)
@example(limit=1.0, scale=1e-6, alpha=[-1e4, 0.0, 1e4], pruned=False, multiplier=-1e4, loss=0.0)
def test_all_is_finite_from_a_microsecond_to_a_second(
    name: str, limit: float, scale: float, alpha: list[float], pruned: bool, multiplier: float, loss: float
) -> None:
    costs = PathCosts(scale, ((scale, 3 * scale, 0.0),))
    alphas = torch.tensor([alpha[0], alpha[1], -math.inf if pruned else alpha[2]], requires_grad=True)
    penalty = FORMS[name](damping=3.0, rate=0.1)
    penalty.multiplier = max(0.0, multiplier) if name == "bound" else multiplier
    expected = costs.expected([alphas.softmax(0)])
    total, term = penalty.total(torch.tensor(loss), expected, limit), penalty.term(expected, limit)
    (grad,) = torch.autograd.grad(total, alphas)
    penalty.update(expected.item(), limit)
    for value in (total, term, grad):
        assert value.isfinite().all()
    assert math.isfinite(penalty.reward(0.5, expected.item(), limit))
    assert math.isfinite(penalty.multiplier)


def test_without_a_form_nothing_changes() -> None:
    penalty, loss = Penalty(), torch.tensor(2.0)
    penalty.update(3.0, 1.0)
    assert (penalty.total(loss, torch.tensor(3.0), 1.0), penalty.reward(0.7, 3.0, 1.0)) == (loss, 0.7)
    assert penalty.multiplier == 0.0


@pytest.mark.parametrize("multiplier", [-0.2, 0.0, 0.3])
@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.1, 5.0])
def test_gradient_of_the_target_by_hand(multiplier: float, ratio: float) -> None:
    penalty = TargetPenalty(damping=0.5, rate=0.1, multiplier=multiplier)
    by_hand = (multiplier + 0.5 * math.log(ratio)) / (2e-4 * ratio)
    assert slope(penalty, 1.0, 2e-4 * ratio, 2e-4) == pytest.approx(by_hand, rel=1e-12)


def test_the_multiplier_of_the_target_follows_the_excess_both_ways() -> None:
    penalty = TargetPenalty(damping=1.0, rate=0.5, multiplier=0.2)
    penalty.update(2e-3, 1e-3)
    assert penalty.multiplier == pytest.approx(0.2 + 0.5 * math.log(2))
    penalty.update(1e-3, 1e-3)
    assert penalty.multiplier == pytest.approx(0.2 + 0.5 * math.log(2))
    for _ in range(3):
        penalty.update(5e-4, 1e-3)
    assert penalty.multiplier == pytest.approx(0.2 - math.log(2)), "below zero"


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("wants", ["the cheap one", "the dear one"])
@pytest.mark.parametrize("start", [-3.0, 3.0], ids=["from below", "from above"])
def test_the_target_drives_the_expectation_to_the_limit_whatever_the_loss_wants(
    unit: float, wants: str, start: float
) -> None:
    """Minimising -p or p of the dear candidate ends at E = T, in microseconds as in millions of parameters."""
    costs = PathCosts(unit, ((1.0 * unit, 4.0 * unit),))
    sign = 1.0 if wants == "the cheap one" else -1.0
    alpha = torch.tensor([0.0, start], requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=0.05, betas=(0.0, 0.999))
    limit, penalty = 3.5 * unit, TargetPenalty(damping=3.0, rate=0.06)
    first = costs.expected([alpha.softmax(0)]).item()
    assert (first > limit) == (start > 0)
    for _ in range(600):
        p = alpha.softmax(0)
        expected = costs.expected([p])
        (alpha.grad,) = torch.autograd.grad(penalty.total(sign * p[1], expected, limit), alpha)
        optimizer.step()
        penalty.update(expected.item(), limit)
    # The multiplier settles in damping / rate = 50 steps; a step of 0.05 of alpha moves 2 + 3 p by 3 / 4 * 0.05 units.
    assert costs.expected([alpha.softmax(0)]).item() == pytest.approx(limit, abs=0.0375 * unit)


@pytest.mark.parametrize("multiplier", [0.0, 0.3])
@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.1, 5.0])
def test_gradient_of_the_bound_by_hand(multiplier: float, ratio: float) -> None:
    penalty = BoundPenalty(damping=0.5, rate=0.1, multiplier=multiplier)
    by_hand = max(0.0, multiplier + 0.5 * math.log(ratio)) / (2e-4 * ratio)
    assert slope(penalty, 1.0, 2e-4 * ratio, 2e-4) == pytest.approx(by_hand, rel=1e-12)


def test_a_bound_that_does_not_bind_changes_nothing() -> None:
    penalty = BoundPenalty(damping=1.0, rate=0.5, multiplier=0.2)
    for _ in range(3):
        penalty.update(5e-4, 1e-3)
    assert penalty.multiplier == 0.0
    assert penalty.term(scalar(5e-4), 1e-3).item() == 0.0
    assert slope(penalty, 1.0, 5e-4, 1e-3) == 0.0
    penalty.update(2e-3, 1e-3)
    assert penalty.multiplier == pytest.approx(0.5 * math.log(2))


@pytest.mark.parametrize(("limit", "ends_at"), [(2.5, 2.5), (4.5, 4.5), (9.0, 5.0)])
def test_a_bound_stops_a_loss_that_wants_more_and_gives_way_to_one_that_wants_less(
    limit: float, ends_at: float
) -> None:
    """Of 2 to 5 units: at the limit where the loss wants all, wherever it wants below it."""
    costs, wants = PathCosts(1.0, ((1.0, 4.0),)), {-1.0: ends_at, 1.0: 2.0}
    for sign, end in wants.items():
        alpha = torch.zeros(2, requires_grad=True)
        optimizer = torch.optim.Adam([alpha], lr=0.05, betas=(0.0, 0.999))
        penalty = BoundPenalty(damping=3.0, rate=0.06)
        for _ in range(600):
            p = alpha.softmax(0)
            expected = costs.expected([p])
            (alpha.grad,) = torch.autograd.grad(penalty.total(sign * p[1], expected, limit), alpha)
            optimizer.step()
            penalty.update(expected.item(), limit)
        # As for the target; and exp(-4) of three units is left where nothing stops alphas on their way.
        assert costs.expected([alpha.softmax(0)]).item() == pytest.approx(end, abs=0.0375 + 3 * math.exp(-4))


@pytest.mark.parametrize("ratio", [0.2, 1.0, 5.0])
def test_the_linear_form_by_hand(ratio: float) -> None:
    penalty = LinearPenalty()
    assert penalty.term(scalar(2e-4 * ratio), 2e-4).item() == pytest.approx(0.1 * (ratio - 1.0), abs=1e-15)
    assert slope(penalty, 1.0, 2e-4 * ratio, 2e-4) == pytest.approx(0.1 / 2e-4, rel=1e-12)
    penalty.update(2e-4 * ratio, 2e-4)
    assert (penalty.multiplier, penalty.reward(0.7, 2e-4 * ratio, 2e-4)) == (0.0, 0.7)


@pytest.mark.parametrize("expected", [1e-6, 2e-4, 5e-2])
def test_the_power_form_by_hand(expected: float) -> None:
    penalty, limit = PowerPenalty(), 2e-3
    ratio = math.log(1.0 + expected / 1e-3) / math.log(3.0)
    assert penalty.total(scalar(2.3), scalar(expected), limit).item() == pytest.approx(
        2.3 * 0.2 * ratio**0.3, rel=1e-12
    )
    inner = 1.0 / (1e-3 + expected) / math.log(3.0)
    assert slope(penalty, 2.3, expected, limit) == pytest.approx(2.3 * 0.2 * 0.3 * ratio**-0.7 * inner, rel=1e-10)
    assert penalty.term(scalar(expected), limit).item() == 0.0, "it multiplies"


def test_the_reward_of_the_power_form_is_mnasnets() -> None:
    penalty, limit = PowerPenalty(), 2e-3
    assert penalty.reward(0.8, 2e-3, limit) == 0.8
    assert penalty.reward(0.8, 4e-3, limit) == pytest.approx(0.8 * 0.5**0.1)
    assert penalty.reward(0.8, 1e-3, limit) > 0.8
