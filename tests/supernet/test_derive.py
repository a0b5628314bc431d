from __future__ import annotations

import itertools
import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.algorithms.interface import Ranked
from supernet.architecture import SKIP, Choice
from supernet.costs import LATENCY, Constraint, CostError, PathCosts, parameters
from supernet.derive import TOLERANCE, BudgetError, choices_of, derive, fastest, most_probable, path_of
from supernet.presets import DIGITS, IMAGENET
from supernet.space import SearchSpace, Stage

# Four blocks of 3 or 2 candidates: 3 * 2 * 3 * 3 = 54 networks.
SPACE = replace(DIGITS, name="small", stages=(Stage(8, 1, 1), Stage(16, 3, 2)), kernels=(3, 5), expands=(3,))
SHAPE = [len(block.candidates) for block in SPACE.blocks]
# Few distinct values, so that ties and budgets met exactly occur.
SECONDS = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 1e-3]) | st.floats(0.0, 1.0)
WEIGHTS = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(1e-6, 1.0)


PATHS = list(itertools.product(*map(range, SHAPE)))


def tables(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[tuple[float, ...], ...]]:
    return st.tuples(*(st.tuples(*[values] * count) for count in SHAPE))


def limited(costs: PathCosts, limit: float, name: str = LATENCY) -> Constraint:
    return Constraint(name, costs, limit, budget=name.startswith(LATENCY))


@given(
    seconds=tables(SECONDS),
    weights=tables(WEIGHTS),
    share=st.floats(0.0, 1.0),
    others=st.none() | st.tuples(tables(SECONDS), st.floats(0.0, 1.0)),
)
def test_equals_brute_force(
    seconds: tuple[tuple[float, ...], ...],
    weights: tuple[tuple[float, ...], ...],
    share: float,
    others: tuple[tuple[tuple[float, ...], ...], float] | None,
) -> None:
    """With one limit or two; limits lie between the costs of two networks, or on those of one."""

    def limit_on(costs: PathCosts, share: float) -> float:
        every = sorted({costs.of(path) for path in PATHS})
        return every[int(share * (len(every) - 1))]

    latency = PathCosts(0.5, seconds)
    constraints = [limited(latency, limit_on(latency, share))]
    if others is not None:
        memory = PathCosts(0.25, others[0])
        constraints.append(limited(memory, limit_on(memory, others[1]), "memory"))
    probabilities = [[w / sum(block) if sum(block) else 1 / len(block) for w in block] for block in weights]

    def log_p(path: tuple[int, ...]) -> float:
        return sum(math.log(max(p[k], 2.2250738585072014e-308)) for p, k in zip(probabilities, path))

    def within(slack: float) -> list[tuple[int, ...]]:
        return [path for path in PATHS if all(c.costs.of(path) <= (1.0 + slack) * c.limit for c in constraints)]

    path = most_probable(probabilities, constraints)
    surely = within(-2 * TOLERANCE)
    if path is None:
        assert not surely
        return
    assert path in within(0.0)
    assert all(log_p(path) >= log_p(other) - 2 * TOLERANCE for other in surely)
    if within(2 * TOLERANCE) == within(0.0):
        # No network is a hair over a limit: those on it are allowed.
        assert all(log_p(path) >= log_p(other) - 2 * TOLERANCE for other in within(0.0))
    alike = [other for other in surely if log_p(other) >= log_p(path)]
    assert all(latency.of(path) <= latency.of(other) + 2 * TOLERANCE * constraints[0].limit for other in alike)


@given(seconds=tables(SECONDS), weights=tables(WEIGHTS), share=st.floats(0.0, 1.0), used=st.floats(0.1, 1.0))
def test_a_budget_that_is_to_be_used_by_looking_at_all(
    seconds: tuple[tuple[float, ...], ...], weights: tuple[tuple[float, ...], ...], share: float, used: float
) -> None:
    """The most probable of the networks between a share of the limit and the limit, without what was pruned."""
    latency = PathCosts(0.5, seconds)
    every = sorted({latency.of(path) for path in PATHS})
    limit = every[int(share * (len(every) - 1))]
    probabilities = [[w / sum(block) if sum(block) else 1 / len(block) for w in block] for block in weights]

    def p(path: tuple[int, ...]) -> float:
        return math.prod(block[k] for block, k in zip(probabilities, path))

    def between(slack: float) -> list[tuple[int, ...]]:
        ends = (used - slack) * limit, (1.0 + min(0.0, slack)) * limit
        return [path for path in PATHS if ends[0] <= latency.of(path) <= ends[1] and p(path) > 0.0]

    path = most_probable(probabilities, [limited(latency, limit)], used)
    surely = between(-2 * TOLERANCE)
    if path is None:
        assert not surely
        return
    assert path in between(2 * TOLERANCE)
    assert all(p(path) >= p(other) * (1 - 4 * TOLERANCE) for other in surely)


@pytest.mark.parametrize("path", [(2, 0, 2), (0, 0, 2), (1, 1, 0), (1, 1, 1)])
def test_a_network_that_costs_just_the_limit_is_allowed(tiny_latency: PathCosts, path: tuple[int, ...]) -> None:
    """Of these probabilities the dearest network within the limit is the likeliest."""
    probabilities = [[cost + 1e-6 for cost in block] for block in tiny_latency.blocks]
    found = most_probable(probabilities, [limited(tiny_latency, tiny_latency.of(path))])
    assert found is not None
    assert tiny_latency.of(found) == pytest.approx(tiny_latency.of(path), rel=4 * 2.0**-52)


def test_plain_argmax_where_the_budget_allows_it(tiny: SearchSpace, tiny_latency: PathCosts) -> None:
    probabilities = ((0.2, 0.7, 0.1), (0.1, 0.9), (0.1, 0.2, 0.7))
    assert derive(tiny, probabilities, [limited(tiny_latency, 1.0)]) == (Choice(5, 2), Choice(5, 2), SKIP)


def test_a_tight_budget_gives_up_where_it_costs_least_probability(tiny: SearchSpace, tiny_latency: PathCosts) -> None:
    probabilities = ((0.01, 0.98, 0.01), (0.45, 0.55), (0.01, 0.01, 0.98))
    # The argmax takes 5e-5 s; one of the first two blocks has to become faster.
    assert derive(tiny, probabilities, [limited(tiny_latency, 4.5e-5)]) == (Choice(5, 2), Choice(3, 2), SKIP)


def test_a_network_that_leaves_the_budget_unused_gives_way_to_the_likeliest_that_uses_it(
    tiny: SearchSpace, tiny_latency: PathCosts
) -> None:
    """Where there is one: the last skip is the likeliest, and costs nothing."""
    probabilities = ((0.2, 0.7, 0.1), (0.1, 0.9), (0.1, 0.2, 0.7))
    budget = [limited(tiny_latency, 7.1e-5)]
    assert derive(tiny, probabilities, budget) == (Choice(5, 2), Choice(5, 2), SKIP)
    assert derive(tiny, probabilities, budget, used=0.95) == (Choice(5, 2), Choice(5, 2), Choice(5, 2))
    # Nothing that was pruned, and nothing where no network is as slow.
    pruned = ((0.2, 0.7, 0.1), (0.1, 0.9), (0.0, 0.0, 1.0))
    assert derive(tiny, pruned, budget, used=0.95) == (Choice(5, 2), Choice(5, 2), SKIP)
    assert derive(tiny, probabilities, [limited(tiny_latency, 1.0)], used=0.95) == (Choice(5, 2), Choice(5, 2), SKIP)


def test_what_was_pruned_is_taken_only_where_the_budget_leaves_nothing_else(
    tiny: SearchSpace, tiny_latency: PathCosts
) -> None:
    probabilities = ((0.0, 1.0, 0.0), (0.0, 1.0), (0.0, 0.9, 0.1))
    assert derive(tiny, probabilities, [limited(tiny_latency, 5.5e-5)]) == (Choice(5, 2), Choice(5, 2), SKIP)
    cheaper = derive(tiny, probabilities, [limited(tiny_latency, 4.5e-5)])
    # One of the two has to give way; the skip of the last block costs nothing, so it stays.
    assert cheaper[2] == SKIP
    assert sum(choice == Choice(5, 2) for choice in cheaper[:2]) == 1


def test_of_ranked_networks_the_first_within_every_limit(tiny: SearchSpace, tiny_latency: PathCosts) -> None:
    ranking = [Ranked((1, 1, 1), 0.9), Ranked((1, 1, 2), 0.8), Ranked((0, 0, 2), 0.7)]
    uniform = [[1 / len(block)] * len(block) for block in tiny_latency.blocks]

    def found(*constraints: Constraint) -> tuple[int, ...]:
        return path_of(tiny, derive(tiny, uniform, constraints, ranking))

    assert found(limited(tiny_latency, 1.0)) == (1, 1, 1)
    assert found(limited(tiny_latency, 5.5e-5)) == (1, 1, 2)
    small = parameters(tiny, parameters(tiny, 1.0).costs.of((0, 0, 2)))
    assert found(limited(tiny_latency, 1.0), small) == (0, 0, 2)
    # None of the ranked ones: the most probable within the limit, here the only one.
    assert found(limited(tiny_latency, 2.5e-5)) == (2, 0, 2)
    with pytest.raises(BudgetError, match=r"No network of space tiny fits 0.019 ms"):
        found(limited(tiny_latency, 1.9e-5))


def test_choices_and_paths_are_the_same_networks() -> None:
    for path in PATHS:
        assert path_of(SPACE, choices_of(SPACE, path)) == path


def test_nothing_fits(tiny: SearchSpace, tiny_latency: PathCosts) -> None:
    uniform = tuple((1 / len(block),) * len(block) for block in tiny_latency.blocks)
    text = tiny.architecture(fastest(tiny, [limited(tiny_latency, 1.0)])).text
    assert "16k3e2s2 16skip" in text
    message = f"No network of space tiny fits 0.019 ms. The fastest, `{text}`, is predicted to take 0.02 ms: raise"
    with pytest.raises(BudgetError, match=message):
        derive(tiny, uniform, [limited(tiny_latency, 1.9e-5)])
    least = tiny_latency.of(tiny_latency.cheapest())
    assert derive(tiny, uniform, [limited(tiny_latency, least)]) == fastest(tiny, [limited(tiny_latency, least)])


@given(first=tables(SECONDS), second=tables(SECONDS), limits=st.tuples(*[st.floats(0.1, 10.0)] * 2))
def test_the_fastest_for_two_targets_by_looking_at_all(
    first: tuple[tuple[float, ...], ...], second: tuple[tuple[float, ...], ...], limits: tuple[float, float]
) -> None:
    """The larger of the two shares of a budget is the least there is, though targets disagree on what is fast."""
    pairs = zip((PathCosts(0.5, first), PathCosts(0.25, second)), limits)
    both = [Constraint(f"latency on {i}", costs, limit, budget=True) for i, (costs, limit) in enumerate(pairs)]

    def share(path: tuple[int, ...]) -> float:
        return max(c.costs.of(path) / c.limit for c in both)

    found = share(path_of(SPACE, fastest(SPACE, both)))
    assert found == pytest.approx(min(map(share, PATHS)), rel=TOLERANCE, abs=2 * TOLERANCE)


def test_limits_that_no_network_keeps_together(tiny: SearchSpace, tiny_latency: PathCosts) -> None:
    uniform = tuple((1 / len(block),) * len(block) for block in tiny_latency.blocks)
    # What is fast is large here: every cost of the second limit is turned round.
    blocks = tuple(tuple(max(block) - cost for cost in block) for block in tiny_latency.blocks)
    large = Constraint("parameters", PathCosts(1e-5, blocks), 2e-5)
    message = (
        r"No network of space tiny fits 0.03 ms \(the fastest, `r8 .*`, takes 0.02 ms\) and the other limits "
        r"\(parameters 2e-05, of which 1e-05 is the least\) together\. Raise one\."
    )
    with pytest.raises(BudgetError, match=message):
        derive(tiny, uniform, [limited(tiny_latency, 3e-5), large])


def test_costs_of_another_space(tiny_latency: PathCosts) -> None:
    with pytest.raises(CostError, match="Space small has"):
        derive(SPACE, [], [limited(tiny_latency, 1.0)])


def test_the_largest_space_is_searched_whole() -> None:
    """Of 2e17 networks the best: costs are whole microseconds here, so a table over all of them has the answer."""
    random = Random(0)
    costs_us = [[0 if c == SKIP else random.randint(100, 500) for c in block.candidates] for block in IMAGENET.blocks]
    probabilities = [[random.random() for _ in block] for block in costs_us]
    budget_us = 21 * 180

    # best[t]: the highest log p of the blocks so far that take t microseconds.
    best = [0.0] + [-math.inf] * budget_us
    for costs, p in zip(costs_us, probabilities):
        best = [
            max((best[t - c] + math.log(q) for c, q in zip(costs, p) if c <= t), default=-math.inf)
            for t in range(budget_us + 1)
        ]

    latency = PathCosts(1e-3, tuple(tuple(1e-6 * cost for cost in block) for block in costs_us))
    # Half a microsecond more, so that rounding decides nothing.
    constraint = limited(latency, 1e-3 + 1e-6 * (budget_us + 0.5))
    path = path_of(IMAGENET, derive(IMAGENET, probabilities, [constraint]))
    assert constraint.allows(path)
    found = sum(math.log(p[k]) for p, k in zip(probabilities, path))
    assert found == pytest.approx(max(best), abs=TOLERANCE)
    assert found < sum(math.log(max(p)) for p in probabilities) - 0.5, "the limit binds"
