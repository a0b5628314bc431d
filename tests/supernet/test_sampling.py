from __future__ import annotations

import re
from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from supernet.costs import LATENCY, Constraint, PathCosts
from supernet.sampling import PARTS, RandomPaths, SamplingError

# In whole parts of a limit of 2000, so that nothing is rounded.
COSTS = PathCosts(100.0, ((300.0, 900.0, 0.0), (200.0, 800.0), (100.0, 500.0, 700.0), (50.0, 0.0)))
PATHS = list(product(range(3), range(2), range(3), range(2)))
ROWS = st.lists(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5).map(tuple)


def draws(sampler: RandomPaths, count: int, seed: int = 0) -> list[tuple[int, ...]]:
    generator = torch.Generator().manual_seed(seed)
    return [tuple(sampler.draw(generator)) for _ in range(count)]


def assert_uniform(found: list[tuple[int, ...]], allowed: list[tuple[int, ...]]) -> None:
    """No other paths, and a share of them that one sample in ten thousand would be farther from equal."""
    counts = Counter(found)
    assert counts.keys() == {*allowed}
    assert chisquare([counts[path] for path in allowed]).pvalue > 1e-4


@pytest.mark.parametrize("at_least", [0.0, 0.62])
@pytest.mark.parametrize("limit", [1000.0, 2000.0])
def test_every_network_within_the_limit_is_equally_likely(limit: float, at_least: float) -> None:
    sampler = RandomPaths([Constraint(LATENCY, COSTS, limit)], at_least)
    allowed = [path for path in PATHS if at_least * limit <= COSTS.of(path) <= limit]
    assert 3 < len(allowed) < len(PATHS)
    assert_uniform(draws(sampler, 100 * len(allowed)), allowed)


def test_without_a_limit_that_binds_all_are() -> None:
    assert_uniform(draws(RandomPaths([Constraint(LATENCY, COSTS, 4000.0)]), 100 * len(PATHS)), PATHS)


def test_further_limits_are_kept_and_what_is_left_is_uniform() -> None:
    other = PathCosts(1.0, ((5.0, 1.0, 2.0), (3.0, 1.0), (2.0, 2.0, 0.0), (1.0, 4.0)))
    both = [Constraint(LATENCY, COSTS, 1500.0), Constraint("parameters", other, 8.0)]
    allowed = [path for path in PATHS if all(limit.allows(path) for limit in both)]
    assert 3 < len(allowed) < sum(both[0].allows(path) for path in PATHS)
    assert_uniform(draws(RandomPaths(both), 100 * len(allowed)), allowed)


@given(fixed=st.floats(1e-6, 1.0), rows=ROWS, share=st.floats(0.0, 1.0), at_least=st.sampled_from([0.0, 0.5, 0.9]))
def test_any_costs_are_within_the_limit(
    fixed: float, rows: tuple[tuple[float, ...], ...], share: float, at_least: float
) -> None:
    """Costs are rounded up, each by less than a part: no limit is exceeded, and that much is lost of `at_least`."""
    costs = PathCosts(fixed, rows)
    least, most = (fixed + sum(f(row) for row in rows) for f in (min, max))
    limit = least + share * (most - least)
    lost = (len(rows) + 2) / PARTS
    try:
        sampler = RandomPaths([Constraint(LATENCY, costs, limit)], at_least)
    except SamplingError:
        shares = [costs.of(path) / limit for path in product(*(range(len(row)) for row in rows))]
        assert not any(at_least <= cost <= 1.0 - lost for cost in shares)
        return
    for path in draws(sampler, 10):
        assert costs.of(path) <= limit * (1 + 1e-12)
        assert costs.of(path) >= (at_least - lost) * limit


def test_the_generator_decides() -> None:
    sampler = RandomPaths([Constraint(LATENCY, COSTS, 2000.0)])
    assert draws(sampler, 20) == draws(sampler, 20)
    assert draws(sampler, 20) != draws(sampler, 20, seed=1)


def test_a_space_of_many_networks_is_counted_not_listed() -> None:
    """7^21 networks and a limit that one in millions keeps."""
    costs = PathCosts(10.0, (tuple(float(k) for k in range(1, 8)),) * 21)
    limit = Constraint(LATENCY, costs, 50.0)
    for path in draws(RandomPaths([limit]), 50):
        assert limit.allows(path)


@pytest.mark.parametrize(("limit", "at_least"), [(349.0, 0.0), (50.0, 0.0)])
def test_a_limit_below_every_network(limit: float, at_least: float) -> None:
    costs = PathCosts(100.0, ((300.0, 250.0),))
    message = f"No network of the space has a latency of at most {limit:.4g}. Raise the limit."
    with pytest.raises(SamplingError, match=re.escape(message)):
        RandomPaths([Constraint(LATENCY, costs, limit)], at_least)


def test_a_least_cost_above_every_network() -> None:
    message = "No network of the space has a latency of at most 2000 and at least 90% of it. Raise the limit."
    with pytest.raises(SamplingError, match=re.escape(message)):
        RandomPaths([Constraint(LATENCY, PathCosts(100.0, ((300.0, 250.0),)), 2000.0)], at_least=0.9)


def test_limits_that_no_network_keeps_together() -> None:
    # What is fast is large: of the first block only the last candidate keeps the one, and not the other.
    large = Constraint("parameters", PathCosts(1.0, ((0.0, 0.0, 9.0), (0.0,) * 2, (0.0,) * 3, (0.0,) * 2)), 5.0)
    sampler = RandomPaths([large, Constraint(LATENCY, COSTS, 600.0)])
    message = "Of 10000 random networks within the latency, none keeps the limit of parameters. Raise one."
    with pytest.raises(SamplingError, match=re.escape(message)):
        sampler.draw(torch.Generator().manual_seed(0))
