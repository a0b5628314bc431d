"""Killed with SIGKILL and resumed equals never stopped, to the last bit."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

CHILD = Path(__file__).with_name("child.py")


def run_child(stage: str, folder: Path, kill_at: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(CHILD), stage, str(folder / "a.ckpt"), str(folder / "out"), str(kill_at)]
    # Sums are taken in another order by another number of threads.
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )


def read(folder: Path) -> Any:
    body = (folder / "out").read_bytes().partition(b"\n")[2]
    return torch.load(io.BytesIO(body), weights_only=True)


def flatten(value: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every leaf with its place; a tensor as its dtype, strides and bits."""
    if isinstance(value, torch.Tensor):
        return [(name, (str(value.dtype), value.stride(), value.contiguous().numpy().tobytes()))]
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in flatten(part, f"{name}/{key}")]
    if isinstance(value, (list, tuple)):
        return [leaf for i, part in enumerate(value) for leaf in flatten(part, f"{name}/{i}")]
    return [(name, value)]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "kill_at"), [("search", 8), ("train", 10)])
def test_killed_and_resumed_equals_never_stopped(stage: str, kill_at: int, tmp_path: Path) -> None:
    """The final checkpoints are the same bits: alphas, weights, optimiser state, history."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    whole.mkdir()
    broken.mkdir()
    assert run_child(stage, whole).stdout.splitlines() == [f"{stage} {done} 4" for done in (1, 2, 3, 4)]

    killed = run_child(stage, broken, kill_at)
    assert killed.returncode == -signal.SIGKILL
    assert killed.stdout.splitlines() == [f"{stage} 1 4", f"{stage} 2 4"]
    resumed = run_child(stage, broken)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout.splitlines() == [f"{stage} 3 4", f"{stage} 4 4"]

    # Not the files' bytes: pickling marks which strings are one object, and those differ after loading.
    assert flatten(read(broken)) == flatten(read(whole))
    if stage == "search":
        pruned = [len(row["pruned"]) for row in read(whole)["state"]["history"]]
        assert pruned[1] > 0, "before the kill"
        assert sum(pruned[2:]) > 0, "and after it"
    else:
        assert (broken / "a.weights.pt").read_bytes() == (whole / "a.weights.pt").read_bytes()
