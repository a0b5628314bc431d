from __future__ import annotations

from typing import Any, get_args

import pytest

from supernet.algorithms import ALGORITHMS
from supernet.presets import PRESETS
from supernet.settings import RECIPES, AlgorithmName, RecipeName, SearchSettings, SettingsError, TrainSettings


def test_every_space_has_every_recipe() -> None:
    assert tuple(RECIPES) == get_args(RecipeName)
    for recipes in RECIPES.values():
        assert recipes.keys() == PRESETS.keys()


def test_every_algorithm_has_a_name() -> None:
    assert tuple(ALGORITHMS) == get_args(AlgorithmName)


def test_imagenet_has_the_papers_recipe() -> None:
    search, train = RECIPES["paper"]["imagenet"].search, RECIPES["paper"]["imagenet"].train
    assert (search.warmup_epochs, search.epochs, search.batch_size) == (40, 120, 256)
    assert (search.warmup_lr, search.lr, search.weight_decay, search.label_smoothing) == (0.05, 0.025, 4e-5, 0.1)
    assert search.weight_steps_per_alpha_step == 5
    assert (train.epochs, train.batch_size, train.lr, train.dropout, train.ema) == (300, 256, 0.05, 0.1, 0.0)


@pytest.mark.parametrize("space", list(PRESETS))
def test_the_short_recipe_is_no_longer_than_the_papers(space: str) -> None:
    short, paper = RECIPES["short"][space], RECIPES["paper"][space]
    assert short.search.warmup_epochs + short.search.epochs < paper.search.warmup_epochs + paper.search.epochs
    assert short.train.epochs < paper.train.epochs


@pytest.mark.parametrize(
    "name",
    [
        "epochs",
        "batch_size",
        "weight_steps_per_alpha_step",
        "warmup_lr",
        "lr",
        "samples",
        "alpha_travel",
        "latency_damping",
        "latency_travel",
        "generations",
        "judged_images",
    ],
)
def test_search_settings_that_cannot_run(name: str) -> None:
    with pytest.raises(SettingsError, match=f"SearchSettings.{name} must be above zero, got -1"):
        SearchSettings(**{name: -1})


@pytest.mark.parametrize("name", ["algorithm", "penalty"])
def test_names_that_do_not_exist(name: str) -> None:
    with pytest.raises(SettingsError, match=rf"SearchSettings.{name} must be one of \w+, .*, got 'annealing'\."):
        SearchSettings(**{name: "annealing"})  # type: ignore[arg-type]


@pytest.mark.parametrize("population", [1, 0, -3])
def test_a_population_that_has_no_parents(population: int) -> None:
    with pytest.raises(SettingsError, match=f"population must be two or more, got {population}"):
        SearchSettings(population=population)


@pytest.mark.parametrize("share", [-0.1, 0.5, 1.0, float("nan")])
def test_pruning_must_leave_candidates(share: float) -> None:
    with pytest.raises(SettingsError, match=f"prune_below must be a share below 0.5, got {share}"):
        SearchSettings(prune_below=share)


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("batch_size", 0), ("lr", float("nan"))])
def test_train_settings_that_cannot_run(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"TrainSettings.{name} must be above zero, got {value}"):
        TrainSettings(**{name: value})


@pytest.mark.parametrize("name", ["dropout", "ema"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_shares_of_training_that_are_none(name: str, value: float) -> None:
    changed: dict[str, Any] = {name: value}
    with pytest.raises(SettingsError, match=f"TrainSettings.{name} must be 0 or more and below 1, got {value}"):
        TrainSettings(**changed)
