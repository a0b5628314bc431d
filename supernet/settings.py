"""Settings of search and training, with those that suit each space, by recipe. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with (stage, epochs done, epochs in all, figures) after each epoch."""

AlgorithmName = Literal["gradient", "two-path", "reinforce", "evolution", "random"]
PenaltyName = Literal["target", "linear", "power"]
RecipeName = Literal["short", "paper"]


class SettingsError(ValueError):
    """A setting has a value it cannot have."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a search runs. Epochs, batches and rates of the weights are the paper's by default (arXiv 1812.00332, section
    4.2, and its released code). Penalty, pruning and the alphas' rate are not: theirs are `linear` and `power`, none,
    and 0.001 throughout.

    `alpha_travel` is how far Adam could move an alpha over the whole search if every step went the same way: with
    beta1 = 0 a step is about the learning rate, so its mean is `alpha_travel / alpha steps` (along a half cosine) and a
    short search decides as firmly as a long one. `latency_travel` scales the multiplier of each limit in the same way;
    `latency_damping` is the weight of its quadratic term. Candidates below `prune_below` are given up after an epoch.
    `samples` networks make a step of `reinforce`; `generations` of `population` networks are evaluated by `evolution`
    and `random` on up to `judged_images` validation images.
    """

    algorithm: AlgorithmName = "gradient"
    penalty: PenaltyName = "target"
    warmup_epochs: int = 40
    epochs: int = 120
    batch_size: int = 256
    warmup_lr: float = 0.05
    lr: float = 0.025
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    weight_steps_per_alpha_step: int = 5
    alpha_travel: float = 10.0
    latency_damping: float = 10.0
    latency_travel: float = 30.0
    prune_below: float = 0.01
    samples: int = 10
    population: int = 50
    generations: int = 20
    judged_images: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            SettingsError: a count below one, a rate that is not positive, a name that does not exist.
        """
        _positive(self, "epochs", "batch_size", "weight_steps_per_alpha_step", "warmup_lr", "lr", "samples")
        _positive(self, "alpha_travel", "latency_damping", "latency_travel", "generations", "judged_images")
        _one_of(self, "algorithm", get_args(AlgorithmName))
        _one_of(self, "penalty", get_args(PenaltyName))
        if self.population < 2:
            raise SettingsError(f"SearchSettings.population must be two or more, got {self.population}.")
        if not 0.0 <= self.prune_below < 0.5:
            raise SettingsError(f"SearchSettings.prune_below must be a share below 0.5, got {self.prune_below}.")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How one network is trained. The defaults are those of the paper's released code.

    `ema` is how much of the moving average of the weights stays at each step; 0 ships the weights as they are.
    """

    epochs: int = 300
    batch_size: int = 256
    lr: float = 0.05
    warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    ema: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            SettingsError: a count below one, a rate that is not positive, a share that is none.
        """
        _positive(self, "epochs", "batch_size", "lr")
        for name in ("dropout", "ema"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingsError(f"TrainSettings.{name} must be 0 or more and below 1, got {getattr(self, name)}.")


def _positive(settings: SearchSettings | TrainSettings, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise SettingsError(f"{type(settings).__name__}.{name} must be above zero, got {getattr(settings, name)}.")


def _one_of(settings: SearchSettings, name: str, known: tuple[str, ...]) -> None:
    if getattr(settings, name) not in known:
        raise SettingsError(
            f"SearchSettings.{name} must be one of {', '.join(known)}, got {getattr(settings, name)!r}."
        )


@dataclass(frozen=True)
class Recipe:
    """What to search and to train with."""

    search: SearchSettings
    train: TrainSettings


# Photographs of 224 pixels: what the paper did, on a GPU for days.
_PAPER = Recipe(SearchSettings(), TrainSettings())
_PAPER_SMALL = Recipe(
    SearchSettings(batch_size=128, weight_steps_per_alpha_step=2),
    TrainSettings(batch_size=128, lr=0.1, warmup_epochs=5, dropout=0.2),
)


def _short(recipe: Recipe, search_epochs: int, train_epochs: int) -> Recipe:
    warmup = search_epochs // 3
    return Recipe(
        replace(recipe.search, warmup_epochs=warmup, epochs=search_epochs - warmup),
        replace(recipe.train, epochs=train_epochs),
    )


# A search is to cost no more than training the network that it finds. An epoch with steps of the alphas takes about as
# long as two without, and a path of the supernet longer than a network within a budget: hence less than half of the
# epochs.
RECIPES: dict[RecipeName, dict[str, Recipe]] = {
    "short": {
        "imagenet": _short(_PAPER, 36, 90),
        "cifar": _short(_PAPER_SMALL, 45, 120),
        "digits": Recipe(
            SearchSettings(
                warmup_epochs=6,
                epochs=8,
                batch_size=32,
                warmup_lr=0.1,
                lr=0.05,
                weight_steps_per_alpha_step=2,
                alpha_travel=20.0,
            ),
            TrainSettings(epochs=30, batch_size=64, lr=0.1, warmup_epochs=2, dropout=0.2),
        ),
    },
    "paper": {"imagenet": _PAPER, "cifar": _PAPER_SMALL, "digits": _PAPER_SMALL},
}
"""By name, then by what they suit: photographs, small ones, the embedded digits. `paper` has the published epochs and,
for photographs, the published rates; what the paper did with small images is not in its code."""

# Images of at most so many pixels are like the digits, or like CIFAR's.
_DIGITS_PIXELS, _CIFAR_PIXELS = 16, 64


def recipe(name: RecipeName, resolution: int) -> Recipe:
    """The recipe that suits images of so many pixels."""
    kind = "digits" if resolution <= _DIGITS_PIXELS else "cifar" if resolution <= _CIFAR_PIXELS else "imagenet"
    return RECIPES[name][kind]
