from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.checkpoint import CheckpointError
from supernet.data import ImageData
from supernet.latency import LatencyError, PathLatency
from supernet.search import SearchError, SearchResult, search
from supernet.settings import SearchSettings
from supernet.space import SearchSpace

Augment = Callable[[Tensor, torch.Generator], Tensor]
SETTINGS = SearchSettings(warmup_epochs=1, epochs=2, batch_size=16, weight_steps_per_alpha_step=1)


def ignore(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    pass


@pytest.fixture
def run(
    tiny: SearchSpace, tiny_data: ImageData, tiny_latency: PathLatency, add_noise: Augment, tmp_path: Path
) -> Callable[..., SearchResult]:
    def call(settings: SearchSettings = SETTINGS, budget_s: float = 4e-5, **changed: Any) -> SearchResult:
        options: dict[str, Any] = {"progress": ignore, "augment": add_noise, **changed}
        data, latency = options.pop("data", tiny_data), options.pop("latency", tiny_latency)
        checkpoint = options.pop("checkpoint", tmp_path / "search.ckpt")
        progress = options.pop("progress")
        return search(tiny, data, latency, budget_s, settings, checkpoint, progress, **options)

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
    assert first["entropy"] == pytest.approx((2 * math.log(3) + math.log(2)) / 3)
    assert second["probabilities"][0] != pytest.approx([1 / 3] * 3, abs=1e-3)
    for block in second["probabilities"]:
        assert sum(block) == pytest.approx(1.0, abs=1e-6)


def test_the_weights_learn(run: Callable[..., SearchResult]) -> None:
    result = run(replace(SETTINGS, warmup_epochs=8, warmup_lr=0.1))
    assert result.history[-1]["validation_top1"] > 0.6
    assert result.history[-1]["loss"] < result.history[0]["loss"]


@pytest.mark.parametrize("budget_s", [2.2e-5, 3e-5, 6e-5])
def test_the_expected_latency_ends_at_or_below_the_budget(run: Callable[..., SearchResult], budget_s: float) -> None:
    """It starts at 4.5e-5 s, and no network takes less than 2e-5 s."""
    result = run(replace(SETTINGS, epochs=15, alpha_travel=20.0), budget_s)
    assert result.history[0]["expected_s"] == pytest.approx(4.5e-5)
    assert result.history[-1]["expected_s"] <= budget_s


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
    assert first.seconds == 3.0


def test_a_search_without_an_augmentation_takes_what_suits_the_data(run: Callable[..., SearchResult]) -> None:
    assert len(run(augment=None).history) == 3


def test_a_loss_that_is_no_number_stops_the_search(run: Callable[..., SearchResult]) -> None:
    def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
        return images * math.nan

    with pytest.raises(SearchError, match=r"loss became nan in epoch 1 of the search. .* the learning rate \(0.05\)"):
        run(augment=spoil)


def test_a_loss_that_is_no_number_on_the_validation_split_stops_the_search(
    run: Callable[..., SearchResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("supernet.latency.LatencyConstraint.penalty", lambda self, expected_s: expected_s * math.inf)
    with pytest.raises(SearchError, match=r"loss became inf in epoch 2 .* learning rate of the weights"):
        run()


def test_a_checkpoint_of_another_search_is_refused(run: Callable[..., SearchResult]) -> None:
    run()
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another budget\."):
        run(budget_s=5e-5)


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


def test_latencies_and_budget_are_checked_first(run: Callable[..., SearchResult]) -> None:
    with pytest.raises(LatencyError, match="the latencies are for"):
        run(latency=PathLatency(1.0, ((1.0,),)))
    with pytest.raises(LatencyError, match="budget must be a positive number"):
        run(budget_s=0.0)
