from __future__ import annotations

import pytest
import torch
from torch import Tensor

from supernet.augment import Augment, augmentation

CASES = [("digits", 16), ("cifar10", 32), ("pets", 96)]


def batch(resolution: int, seed: int = 0) -> Tensor:
    return torch.rand(8, 3, resolution, resolution, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("name", "resolution"), CASES)
def test_result_depends_on_the_generator_alone(name: str, resolution: int) -> None:
    augment, images = augmentation(name, resolution), batch(resolution)
    torch.manual_seed(1)
    first = augment(images, seeded(7))
    torch.manual_seed(2)
    # A module made anew, as after a restart, must carry on the same way.
    assert torch.equal(first, augmentation(name, resolution)(images, seeded(7)))
    assert not torch.equal(first, augment(images, seeded(8)))


@pytest.mark.parametrize(("name", "resolution"), CASES)
def test_global_random_state_is_left_alone(name: str, resolution: int) -> None:
    before = torch.get_rng_state()
    augmentation(name, resolution)(batch(resolution), seeded(0))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(("name", "resolution"), CASES)
def test_images_stay_normalised(name: str, resolution: int) -> None:
    images = batch(resolution)
    before = images.clone()
    changed = augmentation(name, resolution)(images, seeded(0))
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert torch.equal(images, before)
    # Interpolation weights sum to 1 within a few roundings of numbers up to 1.
    assert changed.abs().max() <= 1 + 16 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(("name", "resolution"), CASES)
def test_each_image_is_changed_in_its_own_way(name: str, resolution: int) -> None:
    image = batch(resolution)[:1]
    changed = augmentation(name, resolution)(image.repeat(8, 1, 1, 1), seeded(0))
    assert len({tuple(row.flatten().tolist()) for row in changed}) > 4


def mirrored(augment: Augment, resolution: int) -> bool:
    """Whether some image, bright on the left half, comes out bright on the right."""
    images = torch.full((64, 3, resolution, resolution), -1.0)
    images[..., : resolution // 2] = 1.0
    changed = augment(images, seeded(0)).mean(dim=(1, 2))
    half = resolution // 2
    return bool((changed[:, half:].sum(1) > changed[:, :half].sum(1)).any())


def test_digits_are_never_mirrored() -> None:
    assert not mirrored(augmentation("digits", 16), 16)
    assert mirrored(augmentation("cifar10", 32), 32)
    assert mirrored(augmentation("pets", 96), 96)


def test_digits_keep_a_black_background() -> None:
    black = torch.full((32, 3, 16, 16), -1.0)
    assert torch.equal(augmentation("digits", 16)(black, seeded(0)), black)


def test_only_large_images_change_their_colours() -> None:
    grey = torch.zeros(16, 3, 96, 96)
    assert augmentation("pets", 96)(grey, seeded(0)).std() > 0
    # A shift of a uniform image changes nothing but the last digit of (x * 0.5 + 0.5 - 0.5) / 0.5.
    shifted = augmentation("cifar10", 32)(torch.zeros(16, 3, 32, 32), seeded(0))
    assert shifted.abs().max() <= 4 * torch.finfo(torch.float32).eps


def test_one_number_is_drawn_for_each_batch() -> None:
    used, expected = seeded(3), seeded(3)
    augmentation("pets", 96)(batch(96), used)
    torch.randint(2**63 - 1, (), generator=expected)
    assert torch.equal(used.get_state(), expected.get_state())
