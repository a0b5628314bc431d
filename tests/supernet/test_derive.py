from __future__ import annotations

import itertools
import math
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet import derive as derivation
from supernet.architecture import SKIP, Choice
from supernet.derive import BudgetError, derive, fastest, predicted_s
from supernet.latency import LatencyError, PathLatency
from supernet.space import DIGITS, IMAGENET, SearchSpace, Stage

# Four blocks of 3 or 2 candidates: 3 * 2 * 3 * 3 = 54 networks.
SPACE = replace(DIGITS, name="small", stages=(Stage(8, 1, 1), Stage(16, 3, 2)), kernels=(3, 5), expands=(3,))
SHAPE = [len(block.candidates) for block in SPACE.blocks]
# Few distinct values, so that ties and budgets met exactly occur.
SECONDS = st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.7, 1e-3]) | st.floats(0.0, 1.0)
WEIGHTS = st.sampled_from([0.0, 1.0, 2.0]) | st.floats(1e-6, 1.0)


def tables(values: st.SearchStrategy[float]) -> st.SearchStrategy[tuple[tuple[float, ...], ...]]:
    return st.tuples(*(st.tuples(*[values] * count) for count in SHAPE))


@given(seconds=tables(SECONDS), weights=tables(WEIGHTS), share=st.floats(0.0, 1.0))
def test_equals_brute_force(
    seconds: tuple[tuple[float, ...], ...], weights: tuple[tuple[float, ...], ...], share: float
) -> None:
    latency = PathLatency(0.5, seconds)
    probabilities = [[w / sum(block) if sum(block) else 1 / len(block) for w in block] for block in weights]
    paths = list(itertools.product(*map(range, SHAPE)))
    every = sorted({latency.of(path) for path in paths})
    budget_s = every[int(share * (len(every) - 1))]

    def log_p(path: tuple[int, ...]) -> float:
        return sum(math.log(max(p[k], 2.2250738585072014e-308)) for p, k in zip(probabilities, path))

    best = max(log_p(path) for path in paths if latency.of(path) <= budget_s)
    choices = derive(SPACE, probabilities, latency, budget_s)
    path = tuple(block.candidates.index(choice) for block, choice in zip(SPACE.blocks, choices))
    assert log_p(path) == best
    assert predicted_s(SPACE, choices, latency) == latency.of(path) <= budget_s
    assert latency.of(path) == min(latency.of(other) for other in paths if log_p(other) == best)


def test_plain_argmax_where_the_budget_allows_it(tiny: SearchSpace, tiny_latency: PathLatency) -> None:
    probabilities = ((0.2, 0.7, 0.1), (0.1, 0.9), (0.1, 0.2, 0.7))
    assert derive(tiny, probabilities, tiny_latency, 1.0) == (Choice(5, 2), Choice(5, 2), SKIP)


def test_a_tight_budget_gives_up_where_it_costs_least_probability(tiny: SearchSpace, tiny_latency: PathLatency) -> None:
    probabilities = ((0.01, 0.98, 0.01), (0.45, 0.55), (0.01, 0.01, 0.98))
    # The argmax takes 5e-5 s; one of the first two blocks has to become faster.
    assert derive(tiny, probabilities, tiny_latency, 4.5e-5) == (Choice(5, 2), Choice(3, 2), SKIP)


def test_nothing_fits(tiny: SearchSpace, tiny_latency: PathLatency) -> None:
    uniform = tuple((1 / len(block),) * len(block) for block in tiny_latency.block_s)
    text = tiny.architecture(fastest(tiny, tiny_latency)).text
    assert "16k3e2s2 16skip" in text
    message = f"No network of space tiny fits 0.019 ms. The fastest, `{text}`, is predicted to take 0.02 ms: raise"
    with pytest.raises(BudgetError, match=message):
        derive(tiny, uniform, tiny_latency, 1.9e-5)
    assert derive(tiny, uniform, tiny_latency, 2e-5) == fastest(tiny, tiny_latency)


def test_latencies_of_another_space(tiny_latency: PathLatency) -> None:
    with pytest.raises(LatencyError, match="Space small has"):
        derive(SPACE, [], tiny_latency, 1.0)


def test_the_largest_space_needs_few_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2e17 networks."""
    random = Random(0)
    block_s = tuple(
        tuple(0.0 if choice == SKIP else random.uniform(1e-4, 5e-4) for choice in block.candidates)
        for block in IMAGENET.blocks
    )
    latency = PathLatency(1e-3, block_s)
    probabilities = [[random.random() for _ in block] for block in block_s]
    budget_s = 0.6 * latency.of([0] * 21)
    counts = []

    def count(prefixes: list[Any]) -> list[Any]:
        counts.append(len(prefixes))
        return undominated(prefixes)

    undominated = derivation._undominated
    monkeypatch.setattr(derivation, "_undominated", count)
    choices = derive(IMAGENET, probabilities, latency, budget_s)
    assert len(counts) == 21
    assert sum(counts) < 10_000
    assert predicted_s(IMAGENET, choices, latency) <= budget_s
