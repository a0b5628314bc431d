from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from supernet.checkpoint import CheckpointError
from supernet.costs import Constraint, CostError, PathCosts, latency, parameters
from supernet.data import ImageData
from supernet.derive import derive, most_probable, path_of
from supernet.sampling import SamplingError
from supernet.search import SearchError, SearchResult, search
from supernet.settings import AlgorithmName, SearchSettings
from supernet.space import SearchSpace

Augment = Callable[[Tensor, torch.Generator], Tensor]
SETTINGS = SearchSettings(warmup_epochs=1, epochs=2, batch_size=16, weight_steps_per_alpha_step=1)


ALGORITHM_NAMES = get_args(AlgorithmName)
# Two generations of four networks, of eighteen in all.
FEW = {"population": 4, "generations": 2, "samples": 2}


def ignore(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    pass


@pytest.fixture
def run(
    tiny: SearchSpace, tiny_data: ImageData, tiny_latency: PathCosts, add_noise: Augment, tmp_path: Path
) -> Callable[..., SearchResult]:
    def call(settings: SearchSettings = SETTINGS, budget_s: float = 4e-5, **changed: Any) -> SearchResult:
        options: dict[str, Any] = {"progress": ignore, "augment": add_noise, **changed}
        data, others = options.pop("data", tiny_data), options.pop("others", ())
        constraints = [latency(options.pop("latency", tiny_latency), budget_s), *others]
        checkpoint = options.pop("checkpoint", tmp_path / "search.ckpt")
        progress = options.pop("progress")
        return search(tiny, data, constraints, settings, checkpoint, progress, **options)

    return call


def test_history_has_a_row_for_each_epoch_and_can_be_json(run: Callable[..., SearchResult]) -> None:
    calls = []
    result = run(progress=lambda *call: calls.append(call))
    assert [(stage, done, total) for stage, done, total, _ in calls] == [("search", n, 3) for n in (1, 2, 3)]
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert [row["warmup"] for row in result.history] == [True, False, False]
    assert json.loads(json.dumps(result.history)) == result.history
    assert calls[2][3].keys() <= result.history[2].keys()
    assert result.history[-1]["probabilities"] == [list(p) for p in result.probabilities]


def test_probabilities_move_only_after_the_warm_up(run: Callable[..., SearchResult]) -> None:
    first, second, _ = run().history
    assert first["probabilities"][0] == pytest.approx([1 / 3] * 3)
    assert "entropy" not in first, "searches of other limits share the warm-up"
    assert second["probabilities"][0] != pytest.approx([1 / 3] * 3, abs=1e-3)
    entropies = [-sum(p * math.log(p) for p in block if p) for block in second["probabilities"]]
    # Of float32 numbers.
    assert second["entropy"] == pytest.approx(sum(entropies) / 3, abs=1e-6)
    for block in second["probabilities"]:
        assert sum(block) == pytest.approx(1.0, abs=1e-6)


def test_the_weights_learn(run: Callable[..., SearchResult]) -> None:
    result = run(replace(SETTINGS, warmup_epochs=8, warmup_lr=0.1))
    assert result.history[-1]["validation_top1"] > 0.6
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("budget_s", [2.2e-5, 3e-5, 6e-5])
def test_the_expected_latency_ends_at_the_budget(run: Callable[..., SearchResult], budget_s: float) -> None:
    """It starts at 4.5e-5 s; no network takes less than 2e-5 s, none more than 7e-5 s."""
    result = run(replace(SETTINGS, epochs=30, alpha_travel=20.0, prune_below=0.0), budget_s)
    last = result.history[-1]
    assert last["expected_latency"] == pytest.approx(budget_s, rel=0.1)
    assert last["expected_over_budget"] == pytest.approx(last["expected_latency"] / budget_s)


def test_two_limits_are_kept_together(
    run: Callable[..., SearchResult], tiny: SearchSpace, tiny_latency: PathCosts
) -> None:
    """Both are those of one mixture, so that there is something that meets both."""
    costs = parameters(tiny, 1.0).costs
    mixture = [torch.tensor(p) for p in ((0.1, 0.1, 0.8), (0.8, 0.2), (0.3, 0.1, 0.6))]
    latency_s, count = tiny_latency.expected(mixture).item(), costs.expected(mixture).item()
    limit = Constraint("parameters", costs, count)
    settings = replace(SETTINGS, epochs=30, alpha_travel=20.0, prune_below=0.0)
    last = run(settings, latency_s, others=[limit]).history[-1]
    assert last["expected_latency"] == pytest.approx(latency_s, rel=0.1)
    assert last["expected_parameters"] == pytest.approx(count, rel=0.1)
    assert last["parameters_multiplier"] != last["latency_multiplier"]


@pytest.mark.parametrize("algorithm", ALGORITHM_NAMES)
def test_every_algorithm_finds_a_network_within_the_budget(
    run: Callable[..., SearchResult], tiny: SearchSpace, tiny_latency: PathCosts, algorithm: AlgorithmName
) -> None:
    calls: list[Any] = []
    settings = replace(SETTINGS, algorithm=algorithm, **FEW)
    result = run(settings, 4.5e-5, progress=lambda *call: calls.append(call))
    evaluated = algorithm in ("evolution", "random")
    rounds = 5 if evaluated else 3
    assert [row["epoch"] for row in result.history] == list(range(1, rounds + 1))
    assert [(done, total) for _, done, total, _ in calls] == [(n, rounds) for n in range(1, rounds + 1)]
    assert ["loss" in row for row in result.history] == [True] * 3 + [False] * (rounds - 3)
    assert len(result.ranking) == (8 if evaluated else 0)
    assert json.loads(json.dumps(result.history)) == result.history
    for block in result.probabilities:
        assert sum(block) == pytest.approx(1.0, abs=1e-6)
    limit = latency(tiny_latency, 4.5e-5)
    path = path_of(tiny, derive(tiny, result.probabilities, [limit], result.ranking))
    assert limit.allows(path)
    if evaluated:
        assert all(limit.allows(ranked.path) for ranked in result.ranking)
        assert path == result.ranking[0].path
        assert result.history[-1]["evaluated"] == 8.0
    else:
        assert path == most_probable(result.probabilities, [limit])


class _StopError(Exception):
    pass


@pytest.mark.parametrize("algorithm", ALGORITHM_NAMES)
def test_every_algorithm_stopped_and_resumed_equals_never_stopped(
    run: Callable[..., SearchResult], add_noise: Augment, tmp_path: Path, algorithm: AlgorithmName
) -> None:
    settings = replace(SETTINGS, algorithm=algorithm, prune_below=0.3, alpha_travel=20.0, **FEW)
    whole = run(settings, checkpoint=tmp_path / "whole.ckpt", clock=lambda: 0.0)

    def stopping_at(wanted: int) -> Callable[..., None]:
        def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            if done == wanted:
                raise _StopError

        return progress

    # After the warm-up, with what was pruned in the first epoch, and between two generations where there are any.
    for wanted in range(1, len(whole.history)):
        with pytest.raises(_StopError):
            run(settings, checkpoint=tmp_path / "broken.ckpt", clock=lambda: 0.0, progress=stopping_at(wanted))
    assert run(settings, checkpoint=tmp_path / "broken.ckpt", clock=lambda: 0.0) == whole
    learned = algorithm in ("gradient", "two-path", "reinforce")
    assert (sum(len(row["pruned"]) for row in whole.history) > 0) == learned
    assert (0.0 in whole.history[1]["probabilities"][0]) or not learned


def test_what_is_pruned_stays_away_and_its_weights_too(run: Callable[..., SearchResult]) -> None:
    result = run(replace(SETTINGS, epochs=4, prune_below=0.3, alpha_travel=20.0))
    given_up: set[tuple[int, int]] = set()
    for row in result.history[1:]:
        given_up |= {tuple(pair) for pair in row["pruned"]}
        zeros = {(b, k) for b, p in enumerate(row["probabilities"]) for k, share in enumerate(p) if share == 0.0}
        assert zeros == given_up
        assert row["candidates"] == 8 - len(given_up)
    assert given_up
    assert sum(len(row["pruned"]) for row in result.history) == len(given_up), "each is given up once"
    assert result.history[0]["pruned"] == []


def test_the_warm_up_is_shared_by_searches_that_differ_in_the_rest(
    run: Callable[..., SearchResult], add_noise: Augment, tmp_path: Path
) -> None:
    """The second takes the first one's warm-up, ends with its own, and has the bits of one that made it itself."""
    seen: list[int] = []

    def count(images: Tensor, generator: torch.Generator) -> Tensor:
        seen.append(len(images))
        return add_noise(images, generator)

    def search_of(name: str, warmup: str, settings: SearchSettings = SETTINGS, budget_s: float = 4e-5) -> SearchResult:
        seen.clear()
        options = {"checkpoint": tmp_path / name, "warmup": tmp_path / warmup, "clock": lambda: 0.0, "augment": count}
        return run(settings, budget_s, **options)

    search_of("first", "shared")
    assert len(seen) == 9
    other = replace(SETTINGS, algorithm="two-path", penalty="linear", epochs=1)
    shared = search_of("second", "shared", other, 3e-5)
    assert len(seen) == 3, "of the one epoch after the warm-up"
    assert shared == search_of("third", "own", other, 3e-5)
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another seed\."):
        search_of("fourth", "shared", replace(SETTINGS, seed=1))
    assert (tmp_path / "first").with_suffix(".warmup.checkpoint").exists() is False


def test_the_warm_up_has_a_file_beside_the_checkpoint_unless_given(
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    run()
    assert (tmp_path / "search.warmup.checkpoint").exists()


def test_seconds_of_the_warm_up_count_once(run: Callable[..., SearchResult], tmp_path: Path) -> None:
    ticks = iter(range(100))
    first = run(clock=lambda: float(next(ticks)))
    again = run(checkpoint=tmp_path / "b.ckpt", warmup=tmp_path / "search.warmup.checkpoint", budget_s=3e-5)
    assert first.warmup_seconds == again.warmup_seconds == 1.0
    assert first.seconds >= 3.0
    assert again.seconds > 1.0


def test_the_seed_decides_everything(run: Callable[..., SearchResult], tmp_path: Path) -> None:
    results = [
        run(replace(SETTINGS, seed=seed), checkpoint=tmp_path / f"{n}.ckpt").history for n, seed in enumerate((0, 0, 1))
    ]
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_the_global_generator_is_left_alone(run: Callable[..., SearchResult]) -> None:
    torch.manual_seed(7)
    expected = torch.rand(2)
    torch.manual_seed(7)
    run()
    assert torch.equal(torch.rand(2), expected)


def test_a_finished_search_is_not_repeated(run: Callable[..., SearchResult]) -> None:
    ticks = iter(range(100))
    first = run(clock=lambda: float(next(ticks)))
    calls = []
    again = run(progress=lambda *call: calls.append(call), clock=lambda: 0.0)
    assert again == first
    assert calls == []


def test_a_search_without_an_augmentation_takes_what_suits_the_data(run: Callable[..., SearchResult]) -> None:
    assert len(run(augment=None).history) == 3


def test_a_loss_that_is_no_number_stops_the_search(run: Callable[..., SearchResult]) -> None:
    def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
        return images * math.nan

    with pytest.raises(SearchError, match=r"loss became nan in epoch 1 of the search. .* the learning rate \(0.05\)"):
        run(augment=spoil)


@pytest.mark.parametrize("algorithm", ["gradient", "two-path"])
def test_a_loss_that_is_no_number_on_the_validation_split_stops_the_search(
    run: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch, algorithm: AlgorithmName
) -> None:
    """Rather than torch's own words on probabilities that are none, one step later."""
    monkeypatch.setattr("supernet.penalties.TargetPenalty.term", lambda self, expected, limit: expected * math.nan)
    message = r"The loss of the alphas is no number in epoch 2 .* usual cause is the learning rate \(0\.025\): lower it"
    with pytest.raises(SearchError, match=message):
        run(replace(SETTINGS, algorithm=algorithm))


def test_a_checkpoint_of_another_search_is_refused(run: Callable[..., SearchResult]) -> None:
    run()
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another constraints\."):
        run(budget_s=5e-5)
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another algorithm\."):
        run(replace(SETTINGS, algorithm="random"))


@pytest.mark.parametrize("change", ["relabelled", "replaced"])
def test_a_checkpoint_of_other_images_is_refused(
    run: Callable[..., SearchResult], tiny_data: ImageData, change: str
) -> None:
    run()
    split = tiny_data.train
    other = replace(split, labels=split.labels.flip(0)) if change == "relabelled" else replace(split, stamp="other")
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another data\."):
        run(data=replace(tiny_data, train=other))


def test_a_corrupt_checkpoint_is_moved_aside_and_the_search_starts_over(
    run: Callable[..., SearchResult], tmp_path: Path
) -> None:
    first = run(clock=lambda: 0.0)
    path, notices = tmp_path / "search.ckpt", list[str]()
    path.write_bytes(path.read_bytes()[:-100])
    assert run(notice=notices.append, clock=lambda: 0.0) == first
    assert "search.ckpt.corrupt-1, and this stage starts over" in notices[0]
    assert (tmp_path / "search.ckpt.corrupt-1").exists()


def test_costs_and_limits_are_checked_first(run: Callable[..., SearchResult]) -> None:
    with pytest.raises(CostError, match="the costs are for"):
        run(latency=PathCosts(1.0, ((1.0,),)))
    with pytest.raises(CostError, match="must be a positive number"):
        run(budget_s=0.0)


@pytest.mark.parametrize("algorithm", ["evolution", "random"])
def test_a_budget_below_every_network_is_refused_first(
    run: Callable[..., SearchResult], tmp_path: Path, algorithm: AlgorithmName
) -> None:
    with pytest.raises(SamplingError, match=r"No network of the space has a latency of at most 1.9e-05\. Raise the"):
        run(replace(SETTINGS, algorithm=algorithm), 1.9e-5)
    assert not list(tmp_path.iterdir()), "nothing was trained"
