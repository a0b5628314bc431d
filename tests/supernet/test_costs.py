from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supernet.latency import PULL, LatencyConstraint, LatencyError, PathLatency
from supernet.space import SearchSpace

LATENCY = PathLatency(1.0, ((2.0, 3.0), (5.0, 0.0, 1.0)))


def test_seconds_of_a_path() -> None:
    assert LATENCY.of([1, 0]) == 9.0
    assert LATENCY.of([0, 1]) == 3.0


def test_expectation_is_the_mean_over_all_paths() -> None:
    p = [torch.tensor([0.25, 0.75], dtype=torch.float64), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)]
    paths = itertools.product(range(2), range(3))
    mean = sum(float(p[0][i] * p[1][j]) * LATENCY.of([i, j]) for i, j in paths)
    assert LATENCY.expected_s(p).item() == pytest.approx(mean, rel=1e-15)


def test_gradient_of_the_expectation_by_hand() -> None:
    """With p = softmax(alpha), dE/dalpha_j = p_j (F_j - sum_k p_k F_k)."""
    alphas = [torch.tensor([0.3, -0.2], requires_grad=True), torch.tensor([0.1, 0.5, -1.0], requires_grad=True)]
    probabilities = [alpha.softmax(0) for alpha in alphas]
    grads = torch.autograd.grad(LATENCY.expected_s(probabilities), alphas)
    for p, seconds, grad in zip(probabilities, LATENCY.block_s, grads):
        f = torch.tensor(seconds)
        torch.testing.assert_close(grad, (p * (f - p @ f)).detach())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-9])
def test_a_latency_that_is_no_number_is_refused(bad: float) -> None:
    for fixed_s, block_s in ((bad, ((1.0,),)), (1.0, ((1.0, bad),))):
        with pytest.raises(LatencyError, match=r"must be a finite number of seconds, zero or more. Calibrate"):
            PathLatency(fixed_s, block_s)


def test_fixed_layers_take_time() -> None:
    with pytest.raises(LatencyError, match="fixed layers cannot take 0 s"):
        PathLatency(0.0, ((1.0,),))


def test_latencies_of_another_space_are_refused(tiny: SearchSpace, tiny_latency: PathLatency) -> None:
    tiny_latency.check(tiny)
    with pytest.raises(
        LatencyError, match=r"Space tiny has \[3, 2, 3\] candidates by block, the latencies are for \[3, 2\]"
    ):
        replace(tiny_latency, block_s=tiny_latency.block_s[:2]).check(tiny)


@pytest.mark.parametrize("budget_s", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(budget_s: float) -> None:
    with pytest.raises(LatencyError, match="budget must be a positive number of seconds, got"):
        LatencyConstraint(budget_s, damping=1.0, rate=1.0)


@given(
    budget_s=st.floats(1e-6, 1.0),
    scale_s=st.floats(1e-6, 1.0),
    multiplier=st.floats(0.0, 1e4),
    alpha=st.lists(st.floats(-50.0, 50.0), min_size=3, max_size=3),
)
def test_penalty_and_gradient_are_finite_from_a_microsecond_to_a_second(
    budget_s: float, scale_s: float, multiplier: float, alpha: list[float]
) -> None:
    latency = PathLatency(scale_s, ((scale_s, 3 * scale_s, 0.0),))
    alphas = torch.tensor(alpha, requires_grad=True)
    constraint = LatencyConstraint(budget_s, damping=1.0, rate=0.1, multiplier=multiplier)
    expected_s = latency.expected_s([alphas.softmax(0)])
    (grad,) = torch.autograd.grad(constraint.penalty(expected_s), alphas)
    constraint.update(expected_s.item())
    assert torch.isfinite(grad).all()
    assert math.isfinite(constraint.multiplier)
    assert constraint.multiplier >= 0.0


@pytest.mark.parametrize("multiplier", [0.0, 0.3])
@pytest.mark.parametrize("ratio", [0.2, 0.9, 1.1, 5.0])
def test_gradient_of_the_penalty_by_hand(multiplier: float, ratio: float) -> None:
    expected_s = torch.tensor(2e-4 * ratio, dtype=torch.float64, requires_grad=True)
    constraint = LatencyConstraint(2e-4, damping=0.5, rate=0.1, multiplier=multiplier)
    (grad,) = torch.autograd.grad(constraint.penalty(expected_s), expected_s)
    by_hand = (PULL + max(0.0, multiplier + 0.5 * math.log(ratio))) / expected_s.item()
    assert grad.item() == pytest.approx(by_hand, rel=1e-12)


def test_under_the_budget_the_multiplier_falls_to_zero_and_only_the_pull_is_left() -> None:
    constraint = LatencyConstraint(1e-3, damping=1.0, rate=0.5, multiplier=0.2)
    for _ in range(3):
        constraint.update(5e-4)
    assert constraint.multiplier == 0.0
    expected_s = torch.tensor(5e-4, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(constraint.penalty(expected_s), expected_s)
    assert grad.item() == pytest.approx(PULL / 5e-4, rel=1e-12)


@pytest.mark.parametrize("unit_s", [1e-6, 1e-3, 1.0])
def test_the_constraint_drives_the_expectation_to_the_budget_against_a_loss_that_wants_the_slow_one(
    unit_s: float,
) -> None:
    """Minimising -p_slow under E <= T ends at E = T, whatever the unit of time."""
    latency = PathLatency(unit_s, ((1.0 * unit_s, 4.0 * unit_s),))
    alpha = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([alpha], lr=0.02, betas=(0.0, 0.999))
    constraint = LatencyConstraint(3.0 * unit_s, damping=3.0, rate=0.02)
    for _ in range(500):
        p = alpha.softmax(0)
        expected_s = latency.expected_s([p])
        alpha.grad = torch.autograd.grad(-p[1] + constraint.penalty(expected_s), alpha)[0]
        optimizer.step()
        constraint.update(expected_s.item())
    assert latency.expected_s([alpha.softmax(0)]).item() == pytest.approx(3.0 * unit_s, rel=0.02)
