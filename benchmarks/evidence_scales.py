"""How large `search_evidence` is: a space, MobileNetV2 at several widths beside it, and one recipe for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from supernet.architecture import Architecture
from supernet.named import mobilenet_v2
from supernet.presets import CIFAR, DIGITS
from supernet.settings import Recipe, SearchSettings, TrainSettings, recipe
from supernet.space import SearchSpace, Stage

# MobileNetV2 for images of 32 pixels halves them where the space beside it does: who sees more pixels sees more.
EARLY = partial(mobilenet_v2, resolution=32, classes=10, stem_stride=2, strides=(1, 1, 2, 2, 1, 1, 1))
LATE = partial(mobilenet_v2, resolution=32, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1))


@dataclass(frozen=True)
class Scale:
    """What is trained: a space, MobileNetV2 at these widths beside it, and the recipe of all.

    workers: how many networks are trained at a time, each in a process of its own.
    """

    space: SearchSpace
    mobilenet: Callable[[float], Architecture]
    widths: tuple[float, ...]
    recipe: Recipe
    workers: int


SMALL = Scale(
    # 16 pixels after the stem, half the widths: a few million multiply-accumulates.
    replace(
        CIFAR,
        name="cifar-small",
        stem_channels=16,
        stem_stride=2,
        first_channels=8,
        stages=(Stage(16, 2, 1), Stage(24, 3, 2), Stage(48, 3, 2), Stage(96, 3, 1)),
        head_channels=640,
        baseline=EARLY(0.5),
    ),
    EARLY,
    (0.25, 0.35, 0.5, 0.75),
    # Few epochs of all images, to be done in hours; small batches, which pass a core faster than large ones do.
    Recipe(
        SearchSettings(
            algorithm="two-path",
            warmup_epochs=1,
            epochs=2,
            batch_size=32,
            warmup_lr=0.05,
            lr=0.025,
            weight_steps_per_alpha_step=3,
        ),
        TrainSettings(epochs=6, batch_size=32, lr=0.05, warmup_epochs=1, dropout=0.1),
    ),
    workers=2,
)
GPU = Scale(
    CIFAR,
    LATE,
    (0.35, 0.5, 0.75, 1.0, 1.4),
    Recipe(
        SearchSettings(
            warmup_epochs=15, epochs=35, batch_size=256, warmup_lr=0.2, lr=0.1, weight_steps_per_alpha_step=2
        ),
        TrainSettings(epochs=100, batch_size=256, lr=0.2, warmup_epochs=5, dropout=0.2),
    ),
    workers=1,
)
# Minutes: whether a command works at all, with images that every network tells apart.
TINY = Scale(
    DIGITS,
    partial(mobilenet_v2, resolution=16, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1)),
    (0.25, 0.5),
    recipe("short", DIGITS.resolution),
    workers=2,
)
SCALES = {"tiny": TINY, "small": SMALL, "gpu": GPU}
