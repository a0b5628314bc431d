"""Train: the weights of one network, from the first epoch to the one look at the test split."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast
from zipfile import BadZipFile, ZipFile

import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from supernet import parallel
from supernet.architecture import Architecture
from supernet.checkpoint import CheckpointError, Notice, load_checkpoint, log_notice, save_checkpoint
from supernet.data import ImageData
from supernet.files import write_atomically
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
from supernet.network import Network, build_network
from supernet.settings import Progress, TrainSettings


class TrainError(RuntimeError):
    """The training cannot go on."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """A trained network: the file with its weights, the share of test images it gets right, a row for each epoch."""

    state: Path
    top1: float
    history: list[dict[str, Any]]
    seconds: float


def train(
    arch: Architecture,
    data: ImageData,
    settings: TrainSettings,
    checkpoint: Path,
    progress: Progress,
    *,
    augment: Augmentation | None = None,
    device: str | None = None,
    notice: Notice = log_notice,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainResult:
    """Train `arch` on everything but the test split; its weights are written to `<stem of checkpoint>.weights.pt`.

    The test split is looked at once, at the end. Continues from `checkpoint` where there is one, and ends with the same
    bits (on a CPU) as a training that was never stopped. `augment` is what suits the data unless given. Where there is
    a process group, its ranks share every batch, and rank 0 writes.

    Raises:
        TrainError: the loss is no longer a number.
        CheckpointError: the checkpoint belongs to another training.
    """
    if augment is None:
        from supernet.augment import augmentation  # loads kornia, which who compiles does not need

        augment = augmentation(data.name, data.resolution)
    run = _Training(arch, data, settings, augment, torch.device(device) if device else parallel.local_device())
    owner = {
        "architecture": arch.text,
        "data": data.digest,
        **asdict(settings),
    }
    saved = load_checkpoint(checkpoint, owner, notice)
    if saved is not None:
        run.load_state(saved)
    started = clock() - run.seconds
    while len(run.history) < settings.epochs:
        figures = run.epoch()
        run.seconds = clock() - started
        save_checkpoint(checkpoint, owner, run.state())
        progress("train", len(run.history), settings.epochs, figures)
    weights = io.BytesIO()
    torch.save(run.shipped.state_dict(), weights)
    path = checkpoint.with_suffix(".weights.pt")
    if parallel.rank() == 0:
        write_atomically(path, weights.getvalue())
    parallel.wait()
    return TrainResult(state=path, top1=run.test_top1(), history=run.history, seconds=run.seconds)


def load_network(arch: Architecture, state: Path) -> Network:
    """The network of `arch` with the weights that `train` wrote, ready for inference on the CPU.

    Raises:
        CheckpointError: the file is damaged or has the weights of another network.
    """
    network = build_network(arch)
    try:
        # torch.load itself answers damage with any of half a dozen exceptions, or with wrong weights.
        with ZipFile(state) as archive:
            if damaged := archive.testzip():
                raise BadZipFile(f"{damaged} does not have its checksum")
        network.load_state_dict(torch.load(state, map_location="cpu", weights_only=True))
    except (BadZipFile, RuntimeError) as error:
        raise CheckpointError(
            f"{state} has no weights for `{arch.text}`: it is damaged or was made for another network."
        ) from error
    return network.eval()


class _Training:
    """Everything that changes while a training runs."""

    def __init__(
        self, arch: Architecture, data: ImageData, settings: TrainSettings, augment: Augmentation, device: torch.device
    ) -> None:
        self.data, self.settings, self.augment, self.device = data, settings, augment, device
        self.steps = steps_per_epoch(data.train_all, settings.batch_size)
        with seeded(settings.seed, 0, device):
            self.network = parallel.synchronised(build_network(arch, settings.dropout).to(device))
        # With its statistics of batch norm, which belong to the weights they were taken with.
        ema = get_ema_multi_avg_fn(settings.ema)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=ema, use_buffers=True) if settings.ema else None
        self.optimizer = sgd(list(self.network.parameters()), settings.momentum, settings.weight_decay)
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0

    def epoch(self) -> dict[str, float]:
        """One epoch over the training split; the figures it ends with."""
        done, settings = len(self.history), self.settings
        self.network.train()
        loss_sum = right = 0.0
        with seeded(settings.seed, done + 1, self.device) as generator:
            for step, batch in enumerate(batches(self.data.train_all, settings.batch_size, self.device, generator)):
                loss, batch_top1 = self._step(batch, done * self.steps + step, generator)
                loss_sum, right = loss_sum + loss, right + batch_top1
        figures = {"loss": loss_sum / self.steps, "train_top1": right / self.steps}
        self.history.append({"epoch": done + 1, **figures})
        return figures

    def _step(self, batch: tuple[Tensor, Tensor], number: int, generator: torch.Generator) -> tuple[float, float]:
        """One step of the weights; its loss and the share of the batch that was right before it."""
        (images, labels), settings = batch, self.settings
        lr = cosine_lr(settings.lr, number, settings.epochs * self.steps, settings.warmup_epochs * self.steps)
        set_lr(self.optimizer, lr)
        images, labels = parallel.share(self.augment(images, generator)), parallel.share(labels)
        with mixed_precision(self.device):
            logits = self.network(images)
        loss = functional.cross_entropy(logits.float(), labels, label_smoothing=settings.label_smoothing)
        value = parallel.mean(loss.item(), self.device)
        if not math.isfinite(value):
            raise TrainError(
                f"The loss became {value} in epoch {len(self.history) + 1} of the training. The usual cause is "
                f"the learning rate ({lr:.3g}): lower it and start the training over."
            )
        step(self.optimizer, loss)
        if self.average is not None:
            self.average.update_parameters(self.network)
        return value, parallel.mean((logits.argmax(1) == labels).float().mean().item(), self.device)

    @property
    def shipped(self) -> Network:
        """What is tested and shipped: the moving average of the weights where there is one."""
        return self.network if self.average is None else cast(Network, self.average.module)

    def test_top1(self) -> float:
        """The share of test images that the network gets right."""
        return top1(self.shipped.eval(), self.data.test, self.settings.batch_size, self.device)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. No generator is in it: each epoch seeds its own."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **({} if self.average is None else {"average": self.average.state_dict()}),
            "history": self.history,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history, self.seconds = state["history"], state["seconds"]
