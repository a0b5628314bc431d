from __future__ import annotations

import itertools
import math

import pytest
import torch

from supernet.distribution import PathDistribution

SHAPE = (3, 2, 7)


@pytest.fixture
def distribution() -> PathDistribution:
    """Of random alphas, in float64."""
    made = PathDistribution(SHAPE).double()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for alpha in made.alphas:
            alpha.normal_(generator=generator)
    return made


def test_every_path_is_equally_likely_at_first() -> None:
    made = PathDistribution(SHAPE)
    for p, count in zip(made.probabilities(), SHAPE, strict=True):
        torch.testing.assert_close(p, torch.full((count,), 1 / count))
    assert made.alive() == [[0, 1, 2], [0, 1], [0, 1, 2, 3, 4, 5, 6]]


def test_probabilities_of_all_paths_are_products_and_sum_to_one(distribution: PathDistribution) -> None:
    total = 0.0
    for path in itertools.product(*map(range, SHAPE)):
        log_p = distribution.log_probability(path).item()
        product = math.prod(p[k].item() for p, k in zip(distribution.probabilities(), path))
        assert math.exp(log_p) == pytest.approx(product, rel=1e-14)
        total += math.exp(log_p)
    assert total == pytest.approx(1.0, abs=1e-14)


def test_a_path_too_short_has_no_probability(distribution: PathDistribution) -> None:
    with pytest.raises(ValueError, match="shorter"):
        distribution.log_probability([0, 0])


def test_samples_follow_the_probabilities_and_the_generator(distribution: PathDistribution) -> None:
    draws = 2000
    with torch.no_grad():
        distribution.alphas[0].copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    generator = torch.Generator().manual_seed(0)
    paths = [distribution.sample(generator) for _ in range(draws)]
    share = sum(path[0] == 0 for path in paths) / draws
    assert abs(share - 0.7) < 4 * (0.7 * 0.3 / draws) ** 0.5
    again = torch.Generator().manual_seed(0)
    assert [distribution.sample(again) for _ in range(9)] == paths[:9]


def test_the_most_probable_path_of_all(distribution: PathDistribution) -> None:
    every = itertools.product(*map(range, SHAPE))
    assert tuple(distribution.most_probable()) == max(every, key=lambda path: distribution.log_probability(path).item())


def test_what_is_below_the_threshold_is_given_up_and_nothing_else() -> None:
    made = PathDistribution([4, 2])
    with torch.no_grad():
        made.alphas[0].copy_(torch.tensor([0.5, 0.04, 0.4, 0.06]).log())
    assert made.prune(0.05) == [(0, 1)]
    assert made.alive() == [[0, 2, 3], [0, 1]]
    left = torch.tensor([0.5, 0.0, 0.4, 0.06]) / 0.96
    torch.testing.assert_close(made.probabilities()[0], left, rtol=0, atol=1e-6)
    assert made.probabilities()[0][1].item() == 0.0
    assert made.prune(0.05) == [], "each is given up once"
    assert made.prune(0.0) == []


def test_the_likeliest_is_never_given_up() -> None:
    made = PathDistribution([7])
    assert made.prune(0.49) == [], "all seven are the likeliest, each of 14 %"
    with torch.no_grad():
        made.alphas[0][5] = 0.1
    assert made.prune(0.49) == [(0, k) for k in (0, 1, 2, 3, 4, 6)]
    assert made.prune(0.49) == []
    assert made.probabilities()[0].tolist() == [0, 0, 0, 0, 0, 1, 0]


def test_what_is_given_up_stays_so_whatever_the_optimiser_does(distribution: PathDistribution) -> None:
    optimizer = torch.optim.Adam(distribution.alphas, lr=0.5, betas=(0.0, 0.999))
    weights = [torch.arange(float(count)).double() for count in SHAPE]

    def steps(count: int) -> None:
        for _ in range(count):
            loss = sum(-(w @ p) for w, p in zip(weights, distribution.probabilities()))
            # Both ways to a gradient: through probabilities, and through the log probability of a path.
            loss = loss - 0.1 * distribution.log_probability(distribution.most_probable())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    steps(5)  # so that Adam has second moments of what is given up
    pruned = distribution.prune(0.2)
    assert len(pruned) > 3
    steps(20)
    for block, k in pruned:
        assert distribution.alphas[block][k].item() == -math.inf
        assert distribution.probabilities()[block][k].item() == 0.0
    for p, alive in zip(distribution.probabilities(), distribution.alive(), strict=True):
        assert p.isfinite().all()
        assert p[alive].sum().item() == pytest.approx(1.0, abs=1e-14)
    generator = torch.Generator().manual_seed(0)
    for path in (distribution.sample(generator) for _ in range(200)):
        assert not {*enumerate(path)} & {*pruned}
