"""Settings of search and training, with those that suit each space. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, int, int, dict[str, float]], None]
"""Called with (stage, epochs done, epochs in all, figures) after each epoch."""


class SettingsError(ValueError):
    """A setting has a value it cannot have."""


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How a search runs. The defaults are the paper's (arXiv 1812.00332, section 4.2, and its released code).

    `alpha_travel` is how far Adam could move an alpha over the whole search if every step went the same way: with
    beta1 = 0 a step is about the learning rate, so the rate is `alpha_travel / alpha steps` and a short search decides
    as firmly as a long one. `latency_travel` scales the multiplier of the latency constraint in the same way;
    `latency_damping` is that of `LatencyConstraint`.
    """

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
    latency_damping: float = 3.0
    latency_travel: float = 10.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            SettingsError: a count below one, a rate that is not positive.
        """
        _positive(self, "epochs", "batch_size", "weight_steps_per_alpha_step", "warmup_lr", "lr")
        _positive(self, "alpha_travel", "latency_damping", "latency_travel")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How one network is trained. The defaults are those of the paper's released code."""

    epochs: int = 300
    batch_size: int = 256
    lr: float = 0.05
    warmup_epochs: int = 0
    momentum: float = 0.9
    weight_decay: float = 4e-5
    label_smoothing: float = 0.1
    dropout: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot run.

        Raises:
            SettingsError: a count below one, a rate that is not positive.
        """
        _positive(self, "epochs", "batch_size", "lr")


def _positive(settings: SearchSettings | TrainSettings, *names: str) -> None:
    for name in names:
        if not getattr(settings, name) > 0:
            raise SettingsError(f"{type(settings).__name__}.{name} must be above zero, got {getattr(settings, name)}.")


SEARCH = {
    "imagenet": SearchSettings(),
    "cifar": SearchSettings(warmup_epochs=20, epochs=60, batch_size=128, weight_steps_per_alpha_step=2),
    "digits": SearchSettings(
        warmup_epochs=12,
        epochs=20,
        batch_size=32,
        warmup_lr=0.1,
        lr=0.05,
        weight_steps_per_alpha_step=1,
        alpha_travel=20.0,
    ),
}
"""The settings that suit each space preset."""

TRAIN = {
    "imagenet": TrainSettings(),
    "cifar": TrainSettings(epochs=200, batch_size=128, lr=0.1, warmup_epochs=5, dropout=0.2),
    "digits": TrainSettings(epochs=30, batch_size=64, lr=0.1, warmup_epochs=2, dropout=0.2),
}
"""The settings that suit each space preset."""
