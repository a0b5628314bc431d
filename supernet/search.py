"""Search: weights and path probabilities of a supernet, trained in turns under a latency constraint."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from supernet.augment import augmentation
from supernet.checkpoint import Notice, load_checkpoint, log_notice, save_checkpoint
from supernet.data import ImageData
from supernet.latency import LatencyConstraint, PathLatency
from supernet.loop import Augmentation, batches, cosine_lr, seeded, set_lr, sgd, steps_per_epoch, top1
from supernet.settings import Progress, SearchSettings
from supernet.space import SearchSpace
from supernet.supernet import SuperNet


class SearchError(RuntimeError):
    """The search cannot go on."""


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found: the probability of each candidate of each block, and one row of figures for each epoch."""

    probabilities: tuple[tuple[float, ...], ...]
    history: list[dict[str, Any]]
    seconds: float


def search(
    space: SearchSpace,
    data: ImageData,
    latency: PathLatency,
    budget_s: float,
    settings: SearchSettings,
    checkpoint: Path,
    progress: Progress,
    *,
    augment: Augmentation | None = None,
    device: str = "cpu",
    notice: Notice = log_notice,
    clock: Callable[[], float] = time.perf_counter,
) -> SearchResult:
    """Search `space` for the path probabilities (ProxylessNAS, arXiv 1812.00332, sections 3.2 and 3.3.2).

    First the weights alone, along uniformly random paths; then steps of the weights (training split, a sampled path)
    and of the alphas (validation split, gate gradients and the latency constraint) in turns. Continues from
    `checkpoint` where there is one, and ends with the same bits as a search that was never stopped. `augment` is what
    suits the data unless given.

    Raises:
        SearchError: the loss is no longer a number.
        CheckpointError: the checkpoint belongs to another search.
        LatencyError: the latencies are not for this space, or the budget is no budget.
    """
    latency.check(space)
    augment = augment or augmentation(data.name, data.resolution)
    run = _Search(space, data, latency, budget_s, settings, augment, torch.device(device))
    owner = {
        "space": repr(space),
        "data": data.digest,
        "latency": repr(latency),
        "budget": budget_s,
        **asdict(settings),
    }
    saved = load_checkpoint(checkpoint, owner, notice)
    if saved is not None:
        run.load_state(saved)
    started = clock() - run.seconds
    epochs = settings.warmup_epochs + settings.epochs
    while len(run.history) < epochs:
        figures = run.epoch()
        run.seconds = clock() - started
        save_checkpoint(checkpoint, owner, run.state())
        progress("search", len(run.history), epochs, figures)
    return SearchResult(probabilities=run.probabilities(), history=run.history, seconds=run.seconds)


class _Search:
    """Everything that changes while a search runs."""

    def __init__(
        self,
        space: SearchSpace,
        data: ImageData,
        latency: PathLatency,
        budget_s: float,
        settings: SearchSettings,
        augment: Augmentation,
        device: torch.device,
    ) -> None:
        self.data, self.latency, self.settings, self.augment, self.device = data, latency, settings, augment, device
        self.steps = steps_per_epoch(data.train, settings.batch_size)
        alpha_steps = max(1, settings.epochs * self.steps // settings.weight_steps_per_alpha_step)
        with seeded(settings.seed, 0, device):
            self.supernet = SuperNet(space).to(device)
        self.weight_optimizer = sgd(self.supernet.weights(), settings.momentum, settings.weight_decay)
        # beta1 = 0: momentum would go on moving paths that are no longer sampled.
        self.alpha_optimizer = torch.optim.Adam(
            self.supernet.alphas, lr=settings.alpha_travel / alpha_steps, betas=(0.0, 0.999)
        )
        self.constraint = LatencyConstraint(
            budget_s, damping=settings.latency_damping, rate=settings.latency_travel / alpha_steps
        )
        self.history: list[dict[str, Any]] = []
        self.seconds = 0.0

    def epoch(self) -> dict[str, float]:
        """One epoch over the training split; the figures it ends with."""
        done, settings = len(self.history), self.settings
        warming_up = done < settings.warmup_epochs
        losses = []
        with seeded(settings.seed, done + 1, self.device) as generator:
            for step, batch in enumerate(batches(self.data.train, settings.batch_size, self.device, generator)):
                losses.append(self._weight_step(batch, self._lr(done, step), generator))
                searched = (done - settings.warmup_epochs) * self.steps + step + 1
                if not warming_up and searched % settings.weight_steps_per_alpha_step == 0:
                    self._alpha_step(generator)
        figures = self._figures(sum(losses) / len(losses))
        probabilities = [list(p) for p in self.probabilities()]
        self.history.append({"epoch": done + 1, "warmup": warming_up, **figures, "probabilities": probabilities})
        return figures

    def _lr(self, epoch: int, step: int) -> float:
        warmup = self.settings.warmup_epochs
        if epoch < warmup:
            return cosine_lr(self.settings.warmup_lr, epoch * self.steps + step, warmup * self.steps)
        return cosine_lr(self.settings.lr, (epoch - warmup) * self.steps + step, self.settings.epochs * self.steps)

    def _weight_step(self, batch: tuple[Tensor, Tensor], lr: float, generator: torch.Generator) -> float:
        images, labels = batch
        set_lr(self.weight_optimizer, lr)
        logits = self.supernet(self.augment(images, generator), self.supernet.sample(generator))
        loss = functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
        self._check_finite(loss, f"the learning rate ({lr:.3g})")
        self.weight_optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.weight_optimizer.step()
        return loss.item()

    def _alpha_step(self, generator: torch.Generator) -> None:
        images, labels = next(batches(self.data.validation, self.settings.batch_size, self.device, generator))
        probabilities = self.supernet.probabilities()
        logits = self.supernet(images, self.supernet.sample(generator), gates=probabilities)
        expected_s = self.latency.expected_s(probabilities)
        loss = functional.cross_entropy(logits, labels) + self.constraint.penalty(expected_s)
        self._check_finite(loss, f"the learning rate of the weights ({self.settings.lr:.3g})")
        alphas = list(self.supernet.alphas)
        for alpha, grad in zip(alphas, torch.autograd.grad(loss, alphas)):
            alpha.grad = grad
        self.alpha_optimizer.step()
        self.constraint.update(expected_s.item())

    def _check_finite(self, loss: Tensor, suspect: str) -> None:
        if not torch.isfinite(loss):
            raise SearchError(
                f"The loss became {loss.item()} in epoch {len(self.history) + 1} of the search. The usual cause is "
                f"{suspect}: lower it and start the search over."
            )

    @torch.no_grad()
    def _figures(self, loss: float) -> dict[str, float]:
        probabilities = self.supernet.probabilities()
        path = self.supernet.most_probable()
        return {
            "loss": loss,
            "validation_top1": top1(
                lambda images: self.supernet(images, path), self.data.validation, self.settings.batch_size, self.device
            ),
            "expected_s": float(self.latency.expected_s(probabilities)),
            "entropy": float(torch.stack([torch.special.entr(p).sum() for p in probabilities]).mean()),
            "latency_multiplier": self.constraint.multiplier,
        }

    def probabilities(self) -> tuple[tuple[float, ...], ...]:
        """As numbers."""
        return tuple(tuple(p.tolist()) for p in self.supernet.probabilities())

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds. No generator is in it: each epoch seeds its own."""
        return {
            "supernet": self.supernet.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "alpha_optimizer": self.alpha_optimizer.state_dict(),
            "latency_multiplier": self.constraint.multiplier,
            "history": self.history,
            "seconds": self.seconds,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self.supernet.load_state_dict(state["supernet"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.alpha_optimizer.load_state_dict(state["alpha_optimizer"])
        self.constraint.multiplier = state["latency_multiplier"]
        self.history, self.seconds = state["history"], state["seconds"]
