"""Run as a script: a tiny search or training in a process of its own, killed at the n-th augmented batch if n > 0.

python child.py search|train CHECKPOINT OUTPUT N
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from conftest import TINY, make_tiny_data, noise, within
from torch import Tensor

from supernet.search import search
from supernet.settings import SearchSettings, TrainSettings
from supernet.train import train

# So that candidates are given up in the first epoch after the warm-up, and again later.
SEARCH = SearchSettings(
    warmup_epochs=1, epochs=3, batch_size=16, weight_steps_per_alpha_step=1, prune_below=0.2, alpha_travel=3.0, seed=3
)
TRAIN = TrainSettings(epochs=4, batch_size=16, warmup_epochs=1, dropout=0.5, ema=0.9, seed=3)


def main(stage: str, checkpoint: Path, output: Path, kill_at: int) -> None:
    calls = 0

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return noise(images, generator)

    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        print(stage, done, total, flush=True)

    data = make_tiny_data()
    if stage == "search":
        search(TINY, data, within(4e-5), SEARCH, checkpoint, progress, augment=augment, clock=lambda: 0.0)
    else:
        arch = TINY.architecture([block.candidates[-1] for block in TINY.blocks])
        train(arch, data, TRAIN, checkpoint, progress, augment=augment, clock=lambda: 0.0)
    output.write_bytes(checkpoint.read_bytes())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]))
