"""Data parallelism: every rank has the same weights and the same path, and its share of each batch.

Without a process group (`torchrun` makes one) there is one rank, and nothing here does anything. With one, N ranks
compute what one rank computes with the whole batch, but for rounding: gradients are averaged, batch norm takes its
statistics over all shares, and dropout draws one mask for all. torch's own SyncBatchNorm is for GPUs only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from supernet.settings import SettingsError

_Module = TypeVar("_Module", bound=nn.Module)


# Other ranks wait for rank 0, however long what it does alone takes.
PATIENCE = timedelta(days=2)


def join() -> None:
    """Make the process group that torchrun has prepared, once; nothing without torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)


def ranks() -> int:
    """How many processes share the work."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes files."""
    return dist.get_rank() if ranks() > 1 else 0


def local_device() -> torch.device:
    """Where this process computes: the GPU of its local rank where there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def send_text(text: str) -> None:
    """To every other rank, which calls `receive_text`; called by rank 0. Nothing is pickled."""
    if ranks() > 1:
        content = torch.tensor(list(text.encode()), dtype=torch.uint8)
        dist.broadcast(torch.tensor(len(content)), 0)
        dist.broadcast(content, 0)


def receive_text() -> str:
    """What rank 0 sends."""
    length = torch.tensor(0)
    dist.broadcast(length, 0)
    content = torch.empty(int(length), dtype=torch.uint8)
    dist.broadcast(content, 0)
    return bytes(content.tolist()).decode()


def share(batch: Tensor) -> Tensor:
    """This rank's rows of a batch [B, ...]; all shares are of one size, a rest is left out.

    Raises:
        SettingsError: fewer rows than ranks.
    """
    size = len(batch) // ranks()
    if size == 0:
        raise SettingsError(f"A batch of {len(batch)} cannot be shared by {ranks()} processes: start fewer.")
    return batch[rank() * size : (rank() + 1) * size]


def average(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its mean over the ranks, all in one message; the order is the same on each rank."""
    tensors = list(tensors)
    if ranks() == 1 or not tensors:
        return
    flat = torch.cat([tensor.flatten() for tensor in tensors])
    dist.all_reduce(flat)
    means = torch.split(flat.div_(ranks()), [tensor.numel() for tensor in tensors])
    for tensor, mean in zip(tensors, means):
        tensor.copy_(mean.view_as(tensor))


def mean(value: float, device: torch.device) -> float:
    """The mean of a number over the ranks."""
    held = torch.tensor(value, dtype=torch.float64, device=device)
    average([held])
    return float(held)


def wait() -> None:
    """Until every rank is here."""
    if ranks() > 1:
        dist.barrier()


def synchronised(module: _Module) -> _Module:
    """The module with every batch norm and dropout over all ranks; itself where there is one rank."""
    if ranks() > 1:
        for name, child in list(module.named_modules()):
            parent, _, last = name.rpartition(".")
            if type(child) is nn.BatchNorm2d:
                setattr(module.get_submodule(parent), last, _BatchNorm.like(child))
            elif type(child) is nn.Dropout:
                setattr(module.get_submodule(parent), last, _Dropout(child.p))
    return module


class _Sum(torch.autograd.Function):
    """The sum over the ranks; each rank's part has the sum of all ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        dist.all_reduce(whole)
        return whole

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        whole = grad_outputs[0].clone()
        dist.all_reduce(whole)
        return whole


def _sum(part: Tensor) -> Tensor:
    return _Sum.apply(part)  # type: ignore[no-untyped-call, no-any-return]


class _Dropout(nn.Dropout):
    """Dropout by this rank's rows of the mask that one rank would draw for the whole batch.

    Generators are in the same state on all ranks, so a mask drawn for each share alone would be one mask, repeated.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x [B, ...], a rank's share of a batch."""
        if not self.training:
            return x
        kept = x.new_empty((len(x) * ranks(), *x.shape[1:])).bernoulli_(1.0 - self.p)
        return x * share(kept).div_(1.0 - self.p)


class _BatchNorm(nn.BatchNorm2d):
    """Batch norm [B, C, H, W] whose statistics are those of every rank's share."""

    @classmethod
    def like(cls, norm: nn.BatchNorm2d) -> _BatchNorm:
        """The same parameters and buffers."""
        made = cls(norm.num_features, norm.eps, norm.momentum, track_running_stats=norm.track_running_stats)
        made.to(norm.weight.device, norm.weight.dtype).load_state_dict(norm.state_dict())
        return made.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised by this batch, or by the running statistics once the network is used."""
        if not self.training and self.track_running_stats:
            return super().forward(x)
        every = (0, 2, 3)
        # bfloat16 has too few digits for a mean.
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        centre = _sum(wide.mean(every)) / ranks()
        spread = (wide - centre[:, None, None]).square().mean(every)
        variance = _sum(spread) / ranks()
        if self.training and self.running_mean is not None and self.running_var is not None:
            with torch.no_grad():
                count = x.numel() // x.shape[1] * ranks()
                self.running_mean.lerp_(centre, cast(float, self.momentum))
                self.running_var.lerp_(variance * count / max(1, count - 1), cast(float, self.momentum))
                cast(Tensor, self.num_batches_tracked).add_(1)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (x - centre[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
