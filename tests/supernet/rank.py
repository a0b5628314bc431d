"""Run as a script by each of several processes, as torchrun would: writes what its task computes to OUT.rank.

python rank.py TASK FOLDER [KILL_AT], with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in the environment, or none of
these for a process alone. The rank 1 kills itself at the augmented batch KILL_AT if that is above 0.
"""

from __future__ import annotations

import io
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from conftest import TINY, make_tiny_data, noise, within
from torch import Tensor, nn

from supernet import data, parallel
from supernet.search import search
from supernet.settings import SearchSettings, TrainSettings
from supernet.train import train

BATCH_NORM_STEPS = 3
# Alphas that travel far saturate; what is left of their gradients is rounding then, which Adam makes as large as any.
SEARCH = SearchSettings(
    warmup_epochs=1, epochs=2, batch_size=16, weight_steps_per_alpha_step=1, samples=2, alpha_travel=2.0, seed=3
)
TRAIN = TrainSettings(epochs=2, batch_size=16, dropout=0.5, ema=0.5, seed=3)
SEARCHES = {
    "gradient": SEARCH,
    "two-path": replace(SEARCH, algorithm="two-path", prune_below=0.2),
    "reinforce": replace(SEARCH, algorithm="reinforce"),
    "evolution": replace(SEARCH, algorithm="evolution", population=4, generations=2),
}


def batch_norm() -> dict[str, Tensor]:
    """Two layers, trained for some steps on a share of a batch each time, then used."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Conv2d(4, 4, 1))
    net.append(nn.BatchNorm2d(4, track_running_stats=False)).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    net = parallel.synchronised(net)
    found: dict[str, Tensor] = {}
    for step in range(BATCH_NORM_STEPS):
        images, weights = 5.0 + torch.randn(6, 3, 5, 5).double(), torch.randn(6, 4, 3, 3).double()
        mine = parallel.share(images).clone().requires_grad_()
        output = net(mine)
        net.zero_grad()
        # The mean over rows: each row's part depends on every row, through the statistics.
        (output.square() * parallel.share(weights)).sum((1, 2, 3)).mean().backward()
        gradients = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        parallel.average(gradients)
        found[f"output {step}"], found[f"input gradient {step}"] = output.detach(), mine.grad / parallel.ranks()
        for number, gradient in enumerate(gradients):
            found[f"gradient {step}.{number}"] = gradient.clone()
    found |= {f"state {name}": value.clone() for name, value in net.state_dict().items()}
    net[1].eval()
    return {**found, "used": net(images).detach()}


def texts() -> dict[str, Any]:
    """What arrives of a text, and means."""
    sent = "größe: 3 " * 1000
    if parallel.rank() == 0:
        parallel.send_text(sent)
    got = sent if parallel.rank() == 0 else parallel.receive_text()
    pair = [torch.full((2, 3), float(parallel.rank())), torch.arange(4.0) * (1 + parallel.rank())]
    parallel.average(pair)
    return {"text": got, "mean": parallel.mean(float(parallel.rank()), torch.device("cpu")), "tensors": pair}


def searches(folder: Path, names: list[str], kill_at: int) -> dict[str, Any]:
    """The checkpoint of each algorithm's search."""
    calls = 0

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == kill_at and parallel.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return noise(images, generator)

    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        print(done, flush=True)

    found = {}
    for name in names:
        checkpoint = folder / f"{name}.ckpt"
        options: dict[str, Any] = {"augment": augment, "clock": lambda: 0.0, "device": "cpu"}
        result = search(TINY, make_tiny_data(), within(4e-5), SEARCHES[name], checkpoint, progress, **options)
        parallel.wait()
        body = torch.load(io.BytesIO(checkpoint.read_bytes().partition(b"\n")[2]), weights_only=True)
        found[name] = {"state": body["state"], "history": result.history, "probabilities": result.probabilities}
    return found


def training(folder: Path) -> dict[str, Any]:
    arch = TINY.architecture([block.candidates[-1] for block in TINY.blocks])
    options: dict[str, Any] = {"augment": noise, "clock": lambda: 0.0, "device": "cpu"}
    result = train(arch, make_tiny_data(), TRAIN, folder / "train.ckpt", lambda *call: None, **options)
    return {"weights": torch.load(result.state, weights_only=True), "history": result.history, "top1": result.top1}


def in_float64() -> None:
    """Everything: float32's rounding grows a thousandfold where gradients of alphas are differences of like numbers."""
    torch.set_default_dtype(torch.float64)
    normalise = data.normalise
    data.normalise = lambda images: normalise(images).double()
    Tensor.float = Tensor.double  # type: ignore[method-assign]


def main(task: str, folder: Path, kill_at: int) -> None:
    in_float64()
    parallel.join()
    parallel.join()
    if task == "all":
        found = {"batch norm": batch_norm(), "train": training(folder), **searches(folder, list(SEARCHES), 0)}
        if parallel.ranks() > 1:
            found["texts"] = texts()
    else:
        found = searches(folder, ["two-path"], kill_at)
    torch.save({"rank": parallel.rank(), "ranks": parallel.ranks(), **found}, folder / f"out.{parallel.rank()}")
    parallel.wait()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
