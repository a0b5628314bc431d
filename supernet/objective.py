"""Networks of a supernet, judged on validation images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from supernet import parallel
from supernet.distribution import Path
from supernet.loop import mixed_precision
from supernet.supernet import SuperNet


class ValidationImages:
    """`supernet.algorithms.interface.Objective` for batches of images [B, 3, R, R] and labels [B].

    Of several ranks each has its share; losses are of the share alone, accuracies of all.
    """

    def __init__(self, supernet: SuperNet, batches: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.supernet, self.batches = supernet, batches

    def loss(
        self, path: Path, gates: Sequence[Tensor] | None = None, among: Sequence[Sequence[int]] | None = None
    ) -> Tensor:
        """Cross-entropy, without label smoothing."""
        return torch.stack([self._loss(batch, path, gates, among) for batch in self.batches]).mean()

    def _loss(
        self,
        batch: tuple[Tensor, Tensor],
        path: Path,
        gates: Sequence[Tensor] | None,
        among: Sequence[Sequence[int]] | None,
    ) -> Tensor:
        images, labels = batch
        with mixed_precision(images.device):
            logits = self.supernet(images, path, gates, among)
        return functional.cross_entropy(logits.float(), labels)

    @torch.no_grad()
    def accuracy(self, path: Path) -> float:
        """Top-1."""
        right = total = 0
        for images, labels in self.batches:
            with mixed_precision(images.device):
                right += int((self.supernet(images, path).argmax(1) == labels).sum())
            total += len(labels)
        return parallel.mean(right / total, self.batches[0][0].device)
