from __future__ import annotations

import pytest
import torch
from torch import nn

from supernet.data import ImageData
from supernet.loop import batches, cosine_lr, seeded, set_lr, sgd, steps_per_epoch, top1

CPU = torch.device("cpu")


def test_seeded_depends_on_seed_and_epoch_alone_and_leaves_no_trace() -> None:
    def draw(seed: int, epoch: int) -> float:
        with seeded(seed, epoch, CPU) as generator:
            return torch.rand(1, generator=generator).item() + torch.rand(1).item()

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = draw(0, 1)
    assert torch.equal(torch.rand(3), expected)
    assert draw(0, 1) == first
    assert len({first, draw(1, 0), draw(0, 2), draw(1, 1)}) == 4


def test_an_epoch_has_every_image_once_in_batches_of_one_size(tiny_data: ImageData) -> None:
    found = list(batches(tiny_data.train, 20, CPU, torch.Generator().manual_seed(0)))
    assert [tuple(images.shape) for images, _ in found] == [(20, 3, 8, 8)] * steps_per_epoch(tiny_data.train, 20)
    assert len(torch.cat([images for images, _ in found]).unique(dim=0)) == 40
    assert found[0][0].is_contiguous(memory_format=torch.channels_last)


def test_a_small_split_is_one_batch(tiny_data: ImageData) -> None:
    found = list(batches(tiny_data.train, 1000, CPU, torch.Generator()))
    assert [len(labels) for _, labels in found] == [48]
    assert steps_per_epoch(tiny_data.train, 1000) == 1


def test_cosine_lr() -> None:
    assert cosine_lr(0.1, 0, 100) == 0.1
    assert cosine_lr(0.1, 50, 100) == pytest.approx(0.05)
    assert cosine_lr(0.1, 100, 100) == pytest.approx(0.0, abs=1e-17)
    warm = [cosine_lr(0.1, step, 100, warmup_steps=4) for step in range(6)]
    assert warm[:5] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1])
    assert warm[5] < 0.1


def test_top1_counts_every_image(tiny_data: ImageData) -> None:
    def by_brightness(images: torch.Tensor) -> torch.Tensor:
        level = (images.mean((1, 2, 3)) + 1) / 2 * 255
        return -(level[:, None] - torch.tensor([39.5, 119.5, 199.5])).abs()

    assert top1(by_brightness, tiny_data.test, 7, CPU) == 1.0
    assert top1(lambda images: torch.eye(3)[[0] * len(images)], tiny_data.test, 7, CPU) == pytest.approx(1 / 3)


def test_sgd_is_nesterovs() -> None:
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = sgd([weight], momentum=0.5, weight_decay=0.0)
    set_lr(optimizer, 0.1)
    for _ in range(2):
        weight.grad = torch.tensor([1.0])
        optimizer.step()
    # Step 1: 1 + 0.5 * 1; step 2: 1 + 0.5 * (0.5 + 1).
    assert weight.item() == pytest.approx(1.0 - 0.1 * (1.5 + 1.75))
    sgd([weight], momentum=0.0, weight_decay=0.0)
