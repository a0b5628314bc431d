from __future__ import annotations

import pytest

from supernet.settings import SEARCH, TRAIN, SearchSettings, SettingsError, TrainSettings
from supernet.space import PRESETS


def test_every_space_has_settings() -> None:
    assert SEARCH.keys() == TRAIN.keys() == PRESETS.keys()


def test_imagenet_has_the_papers_recipe() -> None:
    search, train = SEARCH["imagenet"], TRAIN["imagenet"]
    assert (search.warmup_epochs, search.epochs, search.batch_size) == (40, 120, 256)
    assert (search.warmup_lr, search.lr, search.weight_decay, search.label_smoothing) == (0.05, 0.025, 4e-5, 0.1)
    assert search.weight_steps_per_alpha_step == 5
    assert (train.epochs, train.batch_size, train.lr, train.dropout) == (300, 256, 0.05, 0.1)


@pytest.mark.parametrize("name", ["epochs", "batch_size", "lr", "warmup_lr", "alpha_travel", "latency_damping"])
def test_search_settings_that_cannot_run(name: str) -> None:
    with pytest.raises(SettingsError, match=f"SearchSettings.{name} must be above zero, got -1"):
        SearchSettings(**{name: -1})


@pytest.mark.parametrize(("name", "value"), [("epochs", 0), ("batch_size", 0), ("lr", float("nan"))])
def test_train_settings_that_cannot_run(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=f"TrainSettings.{name} must be above zero, got {value}"):
        TrainSettings(**{name: value})
