"""The weights of a supernet while they learn: alone in the warm-up, and along the paths that a search samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from supernet import parallel
from supernet.checkpoint import Notice, load_checkpoint, save_checkpoint
from supernet.data import ImageData
from supernet.distribution import PathDistribution
from supernet.loop import (
    Augmentation,
    batches,
    cosine_lr,
    mixed_precision,
    seeded,
    set_lr,
    sgd,
    step,
    steps_per_epoch,
    top1,
)
from supernet.objective import ValidationImages
from supernet.settings import Progress, SearchSettings
from supernet.space import SearchSpace
from supernet.supernet import SuperNet

# What the warm-up depends on: searches that differ in other settings share it.
_WARMUP_SETTINGS = (
    "warmup_epochs",
    "warmup_lr",
    "batch_size",
    "momentum",
    "weight_decay",
    "label_smoothing",
    "seed",
)


class SearchError(RuntimeError):
    """The search cannot go on."""


class SuperNetWeights:
    """A supernet, its optimiser, and the images that it learns from and is judged by."""

    def __init__(
        self,
        space: SearchSpace,
        data: ImageData,
        settings: SearchSettings,
        augment: Augmentation,
        device: torch.device,
    ) -> None:
        self.space, self.data, self.settings, self.augment, self.device = space, data, settings, augment, device
        self.steps = steps_per_epoch(data.train, settings.batch_size)
        with seeded(settings.seed, 0, device):
            self.supernet = parallel.synchronised(SuperNet(space).to(device))
        self.optimizer = sgd(list(self.supernet.parameters()), settings.momentum, settings.weight_decay)
        self.pruned: list[list[int]] = []
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0

    def batches(self, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of the training split, in random order."""
        return batches(self.data.train, self.settings.batch_size, self.device, generator)

    def step(
        self, batch: tuple[Tensor, Tensor], epoch: int, number: int, path: Sequence[int], generator: torch.Generator
    ) -> float:
        """One step of the weights of a path, on a batch that is augmented first; the loss before it."""
        settings, lr = self.settings, self._lr(epoch, number)
        set_lr(self.optimizer, lr)
        images, labels = parallel.share(self.augment(batch[0], generator)), parallel.share(batch[1])
        with mixed_precision(self.device):
            logits = self.supernet(images, path)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        value = parallel.mean(loss.item(), self.device)
        if not math.isfinite(value):
            raise SearchError(
                f"The loss became {value} in epoch {epoch + 1} of the search. The usual cause is the learning rate "
                f"({lr:.3g}): lower it and start the search over."
            )
        step(self.optimizer, loss)
        return value

    def _lr(self, epoch: int, step: int) -> float:
        warmup = self.settings.warmup_epochs
        if epoch < warmup:
            return cosine_lr(self.settings.warmup_lr, epoch * self.steps + step, warmup * self.steps)
        return cosine_lr(self.settings.lr, (epoch - warmup) * self.steps + step, self.settings.epochs * self.steps)

    def validation_batch(self, generator: torch.Generator) -> ValidationImages:
        """A random batch of the validation split."""
        images, labels = next(batches(self.data.validation, self.settings.batch_size, self.device, generator))
        return ValidationImages(self.supernet, [(parallel.share(images), parallel.share(labels))])

    @cached_property
    def judged(self) -> ValidationImages:
        """The same random images of the validation split whenever networks are compared one by one."""
        size = min(self.settings.batch_size, len(self.data.validation))
        count = max(1, min(self.settings.judged_images, len(self.data.validation)) // size)
        with seeded(self.settings.seed, 0, self.device) as generator:
            every = batches(self.data.validation, size, self.device, generator)
            shares = [
                (parallel.share(images), parallel.share(labels)) for (images, labels), _ in zip(every, range(count))
            ]
        return ValidationImages(self.supernet, shares)

    def validation_top1(self, path: Sequence[int]) -> float:
        """The share of the validation split that a path gets right."""
        return top1(lambda x: self.supernet(x, path), self.data.validation, self.settings.batch_size, self.device)

    def prune(self, candidates: Sequence[tuple[int, int]]) -> None:
        """Give up the weights of candidates, with what the optimiser keeps of them."""
        if not candidates:
            return
        self.supernet.prune(candidates)
        self.pruned += [list(pair) for pair in candidates]
        old, kept = self.optimizer.state, list(self.supernet.parameters())
        self.optimizer = sgd(kept, self.settings.momentum, self.settings.weight_decay)
        self.optimizer.state.update({weight: old[weight] for weight in kept if weight in old})

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "supernet": self.supernet.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "pruned": self.pruned,
            "history": self.history,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.prune([(block, candidate) for block, candidate in state["pruned"]])
        self.supernet.load_state_dict(state["supernet"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.history, self.seconds = state["history"], state["seconds"]


def warm_up(
    weights: SuperNetWeights,
    checkpoint: Path,
    rounds: int,
    progress: Progress,
    notice: Notice,
    clock: Callable[[], float],
) -> None:
    """Let the weights learn alone, along uniformly random paths, or take them from `checkpoint`.

    rounds: how many there are in all, of which the warm-up's epochs are the first; for the progress.

    Raises:
        SearchError: the loss is no longer a number.
        CheckpointError: the checkpoint belongs to another search.
    """
    settings = weights.settings
    owner = {
        "space": repr(weights.space),
        "data": weights.data.digest,
        **{name: getattr(settings, name) for name in _WARMUP_SETTINGS},
    }
    saved = load_checkpoint(checkpoint, owner, notice)
    if saved is not None:
        weights.load_state(saved)
    started = clock() - weights.seconds
    uniform = PathDistribution([len(block.candidates) for block in weights.space.blocks])
    probabilities = [p.tolist() for p in uniform.probabilities()]
    while (done := len(weights.history)) < settings.warmup_epochs:
        with seeded(settings.seed, done + 1, weights.device) as generator:
            losses = [
                weights.step(batch, done, number, uniform.sample(generator), generator)
                for number, batch in enumerate(weights.batches(generator))
            ]
        figures = {
            "loss": sum(losses) / len(losses),
            "validation_top1": weights.validation_top1(uniform.most_probable()),
        }
        weights.history.append(
            {"warmup": True, "epoch": done + 1, "pruned": [], "probabilities": probabilities, **figures}
        )
        weights.seconds = clock() - started
        save_checkpoint(checkpoint, owner, weights.state())
        progress("search", done + 1, rounds, figures)
