"""Two processes under torchrun: one run, whose search they share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.compiles]
HERE = Path(__file__).parent


def search(cli: Any, out: str) -> list[dict[str, Any]]:
    """The history of a search by two processes that torchrun starts."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = ["search", "--space", "tiny", "--budget", "5ms", "--out", out, "--json"]
    done = subprocess.run(
        [*torchrun, str(HERE / "tiny_cli.py"), *command],
        cwd=cli.folder,
        env=os.environ | {"XDG_DATA_HOME": str(cli.folder / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["run"] == out, "rank 0 alone prints"
    return history(cli.folder / out)


def history(run: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((run / "search" / "result.json").read_text())["history"]
    return rows


def test_two_processes_search_as_one_does(finished: Path, cli: Any) -> None:
    one, two = history(finished), search(cli, "shared")
    assert len(one) == len(two)
    # test_parallel compares in float64, to the last digits. Here are float32 and dozens of steps at a high rate.
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=0.05)
    assert two[-1]["probabilities"] != one[0]["probabilities"]
