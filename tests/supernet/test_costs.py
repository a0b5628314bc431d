from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from supernet.costs import LATENCY, PARAMETERS, Constraint, CostError, PathCosts, latency, parameters, weighted
from supernet.derive import choices_of, derive, path_of
from supernet.network import build_network
from supernet.presets import DIGITS
from supernet.space import SearchSpace

COSTS = PathCosts(1.0, ((2.0, 3.0), (5.0, 0.0, 1.0)))
PATHS = tuple(itertools.product(range(2), range(3)))


def test_cost_of_a_path() -> None:
    assert COSTS.of([1, 0]) == 9.0
    assert COSTS.of([0, 1]) == 3.0
    with pytest.raises(ValueError, match="shorter"):
        COSTS.of([0])


def test_the_cheapest_path_of_all() -> None:
    assert COSTS.of(COSTS.cheapest()) == min(COSTS.of(path) for path in PATHS)
    assert COSTS.cheapest() == [0, 1]


def test_costs_of_a_space_are_those_of_the_operators_that_its_networks_run(tiny: SearchSpace) -> None:
    costs = PathCosts.of_space(tiny, lambda op: float(op.macs))
    costs.check(tiny)
    for path in itertools.product(*(range(len(block.candidates)) for block in tiny.blocks)):
        assert costs.of(path) == tiny.architecture(choices_of(tiny, path)).macs


def test_expectation_is_the_mean_over_all_paths() -> None:
    p = [torch.tensor([0.25, 0.75], dtype=torch.float64), torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)]
    mean = sum(float(p[0][i] * p[1][j]) * COSTS.of([i, j]) for i, j in PATHS)
    assert COSTS.expected(p).item() == pytest.approx(mean, rel=1e-15)


def test_gradient_of_the_expectation_by_hand() -> None:
    """With p = softmax(alpha), dE/dalpha_j = p_j (F_j - sum_k p_k F_k)."""
    alphas = [torch.tensor([0.3, -0.2], requires_grad=True), torch.tensor([0.1, 0.5, -1.0], requires_grad=True)]
    probabilities = [alpha.softmax(0) for alpha in alphas]
    grads = torch.autograd.grad(COSTS.expected(probabilities), alphas)
    for p, costs, grad in zip(probabilities, COSTS.blocks, grads):
        f = torch.tensor(costs)
        torch.testing.assert_close(grad, (p * (f - p @ f)).detach())


@given(
    fixed=st.floats(1e-7, 1.0),
    rows=st.tuples(*(st.tuples(*[st.floats(0.0, 1.0)] * count) for count in (3, 2, 3))),
    path=st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(0, 2)),
)
def test_one_hot_probabilities_expect_the_cost_of_the_derived_network(
    tiny: SearchSpace, fixed: float, rows: tuple[tuple[float, ...], ...], path: tuple[int, ...]
) -> None:
    """To the last bit: zeros add nothing, and both sums go from the first block to the last."""
    costs = PathCosts(fixed, rows)
    one_hot = [functional.one_hot(torch.tensor(k), len(row)).double() for k, row in zip(path, rows)]
    choices = derive(tiny, [p.tolist() for p in one_hot], [latency(costs, 5.0)])
    assert path_of(tiny, choices) == path
    assert costs.expected(one_hot).item() == costs.of(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1e-9])
def test_a_cost_that_is_no_number_is_refused(bad: float) -> None:
    for fixed, blocks in ((bad, ((1.0,),)), (1.0, ((1.0, bad),))):
        with pytest.raises(CostError, match=r"must be a finite number, zero or more\. Calibrate the target again"):
            PathCosts(fixed, blocks)


def test_fixed_layers_cost_something() -> None:
    with pytest.raises(CostError, match=r"fixed layers cannot cost nothing\. Calibrate the target again"):
        PathCosts(0.0, ((1.0,),))


def test_costs_of_another_space_are_refused(tiny: SearchSpace, tiny_latency: PathCosts) -> None:
    tiny_latency.check(tiny)
    with pytest.raises(CostError, match=r"Space tiny has \[3, 2, 3\] candidates by block, the costs are for \[3, 2\]"):
        replace(tiny_latency, blocks=tiny_latency.blocks[:2]).check(tiny)


@pytest.mark.parametrize("limit", [0.0, -1.0, math.nan, math.inf])
def test_a_limit_that_is_none_is_refused(limit: float) -> None:
    with pytest.raises(CostError, match=f"A limit of latency must be a positive number, got {limit}"):
        Constraint(LATENCY, COSTS, limit)


def test_a_limit_is_kept_where_it_is_met() -> None:
    constraint = Constraint(LATENCY, COSTS, 6.0)
    assert [constraint.allows(path) for path in PATHS] == [COSTS.of(path) <= 6.0 for path in PATHS]
    assert Constraint(LATENCY, COSTS, 9.0).allows([1, 0]), "at the limit"


@pytest.mark.parametrize("space", ["tiny", "digits"])
def test_parameters_are_those_of_the_built_network(space: str, tiny: SearchSpace) -> None:
    found = {"tiny": tiny, "digits": DIGITS}[space]
    constraint = parameters(found, 1e6)
    assert (constraint.name, constraint.limit) == (PARAMETERS, 1e6)
    for path in (constraint.costs.cheapest(), [0] * len(found.blocks), [len(b.candidates) - 1 for b in found.blocks]):
        network = build_network(found.architecture(choices_of(found, path)))
        assert constraint.costs.of(path) == sum(p.numel() for p in network.parameters() if p.requires_grad)


def test_one_budget_for_several_is_the_weighted_mean_of_their_shares() -> None:
    """Half of the first budget and twice the second are 0.875 with three parts of the first, whatever the units."""
    first = latency(PathCosts(1.0, ((1.0, 3.0),)), 4.0, "a")
    second = latency(PathCosts(1e-3, ((7e-3, 1e-3),)), 4e-3, "b")
    both = weighted([first, second], (3.0, 1.0))
    assert both.costs.of([0]) / both.limit == pytest.approx((3 * 0.5 + 2.0) / 4)
    assert both.costs.of([1]) / both.limit == pytest.approx((3 * 1.0 + 0.5) / 4)
    assert (both.limit, both.budget) == (4.0, True)
    assert weighted([first], (2.0,)).costs == first.costs
