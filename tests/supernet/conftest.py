"""A space and a data set so small that a search takes a second."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from supernet.costs import Constraint, PathCosts, latency
from supernet.data import ImageData, Split
from supernet.presets import DIGITS
from supernet.space import SearchSpace, Stage

TINY = replace(
    DIGITS,
    name="tiny",
    resolution=8,
    classes=3,
    stem_channels=8,
    first_channels=8,
    stages=(Stage(8, 1, 1), Stage(16, 2, 2)),
    head_channels=16,
    kernels=(3, 5),
    expands=(2,),
    baseline=DIGITS.baseline.with_classes(3),
)


def make_tiny_data() -> ImageData:
    """Three classes that differ in brightness; 48 images to train on, 24 for the architecture, 24 for the test."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % TINY.classes
    noise = torch.randint(0, 80, (96, 3, 8, 8), generator=generator)
    images = (noise + 80 * labels[:, None, None, None]).to(torch.uint8)

    def split(start: int, stop: int) -> Split:
        return Split(labels=labels[start:stop], rows=torch.arange(start, stop), read=images.__getitem__, stamp="")

    return ImageData(
        name="tiny",
        resolution=8,
        classes=("dark", "grey", "bright"),
        train=split(0, 48),
        validation=split(48, 72),
        test=split(72, 96),
        train_all=split(0, 72),
    )


def make_tiny_latency() -> PathCosts:
    """A kernel of 5 takes twice the time of a kernel of 3."""
    return PathCosts(1e-5, ((1e-5, 2e-5, 0.0), (1e-5, 2e-5), (1e-5, 2e-5, 0.0)))


def within(budget_s: float, costs: PathCosts | None = None) -> tuple[Constraint]:
    """The limits of a search that has a budget alone."""
    return (latency(costs or make_tiny_latency(), budget_s),)


def noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """An augmentation that needs no kornia."""
    return images + 0.1 * torch.randn(images.shape, generator=generator)


@pytest.fixture(scope="session")
def tiny() -> SearchSpace:
    return TINY


@pytest.fixture
def tiny_data() -> ImageData:
    return make_tiny_data()


@pytest.fixture(scope="session")
def tiny_latency() -> PathCosts:
    return make_tiny_latency()


@pytest.fixture
def add_noise() -> Callable[[Tensor, torch.Generator], Tensor]:
    return noise
