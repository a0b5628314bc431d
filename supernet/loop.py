"""What the search and the training of one network share: random numbers, batches, learning rate, top-1."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from supernet import parallel
from supernet.data import Split, iterate

Augmentation = Callable[[Tensor, torch.Generator], Tensor]
"""Normalised images [B, 3, R, R] -> the same, changed at random."""


@contextmanager
def seeded(seed: int, epoch: int, device: torch.device) -> Iterator[torch.Generator]:
    """Torch's global generators seeded by (seed, epoch), that of the CPU as value; put back afterwards.

    Dropout can draw from nothing else. Seeded for each epoch, generators need no place in a checkpoint: a resumed run
    draws what an uninterrupted one draws.
    """
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1))
        yield torch.default_generator


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """How many batches `batches` yields."""
    return max(1, len(split) // batch_size)


def batches(
    split: Split, batch_size: int, device: torch.device, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images [B, 3, R, R] (channels-last) and labels [B] in random order, all batches of one size.

    A split smaller than a batch is one batch.
    """
    size = min(batch_size, len(split))
    for images, labels in iterate(split, size, generator, drop_last=True):
        yield _to(device, images), labels.to(device)


def cosine_lr(lr: float, step: int, steps: int, warmup_steps: int = 0) -> float:
    """Linear from near 0 to `lr` in `warmup_steps`, then along a half cosine to 0 at `steps`."""
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    return 0.5 * lr * (1.0 + math.cos(math.pi * (step - warmup_steps) / (steps - warmup_steps)))


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def mixed_precision(device: torch.device) -> torch.autocast:
    """bfloat16 where a GPU has it, which needs no scaling of gradients; float32 elsewhere."""
    enabled = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step along the gradient of a loss that is the mean over this rank's share of a batch."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    parallel.average(p.grad for p in parameters if p.grad is not None)
    optimizer.step()


@torch.inference_mode()
def top1(network: Callable[[Tensor], Tensor], split: Split, batch_size: int, device: torch.device) -> float:
    """The share of images of `split` whose highest logit is their label's."""
    right = 0
    for images, labels in iterate(split, batch_size):
        right += int((network(_to(device, images)).argmax(1).cpu() == labels).sum())
    return right / len(split)


def sgd(weights: list[nn.Parameter], momentum: float, weight_decay: float) -> torch.optim.SGD:
    """Nesterov SGD; its learning rate is set before each step."""
    return torch.optim.SGD(weights, lr=0.0, momentum=momentum, nesterov=momentum > 0, weight_decay=weight_decay)


def _to(device: torch.device, images: Tensor) -> Tensor:
    return images.to(device, memory_format=torch.channels_last)
