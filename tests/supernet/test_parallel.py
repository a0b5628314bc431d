"""Two processes compute what one computes with the whole batch."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from supernet import parallel
from supernet.settings import SettingsError

SCRIPT = Path(__file__).with_name("rank.py")
RANKS = 2
SLOW = pytest.mark.slow


def start(task: str, folder: Path, ranks: int, kill_at: int = 0) -> list[subprocess.Popen[str]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Sums are taken in another order by another number of threads.
    shared = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
    command = [sys.executable, str(SCRIPT), task, str(folder), str(kill_at)]
    return [
        subprocess.Popen(
            command,
            env={**os.environ, **shared, "RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(ranks)
    ]


def run(task: str, folder: Path, ranks: int) -> list[Any]:
    """What each rank found."""
    folder.mkdir(exist_ok=True)
    processes = start(task, folder, ranks)
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(ranks)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any]]:
    """Of one process, and of each of two."""
    folder = tmp_path_factory.mktemp("parallel")
    (alone,) = run("all", folder / "alone", 1)
    return alone, run("all", folder / "together", RANKS)


def leaves(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {k: v for key, part in value.items() for k, v in leaves(part, f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, part in enumerate(value) for k, v in leaves(part, f"{name}/{i}").items()}
    return {name: value}


def assert_alike(found: Any, expected: Any, tolerance: float) -> None:
    """Every number and tensor, to a share of the largest of its tensor or of one."""
    ours, theirs = leaves(found), leaves(expected)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, Tensor):
            scale = max(1.0, theirs[name].abs().max().item()) if value.numel() else 1.0
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=tolerance * scale, msg=lambda m, n=name: n + m)
        elif isinstance(value, float):
            assert value == pytest.approx(theirs[name], rel=tolerance, abs=tolerance), name
        else:
            assert value == theirs[name], name


@SLOW
def test_two_processes_were_at_work(found: tuple[Any, list[Any]]) -> None:
    alone, together = found
    assert (alone["rank"], alone["ranks"]) == (0, 1)
    assert [(one["rank"], one["ranks"]) for one in together] == [(0, 2), (1, 2)]


@SLOW
def test_batch_norm_over_ranks_is_that_of_the_whole_batch(found: tuple[Any, list[Any]]) -> None:
    """Outputs, gradients and running statistics, in float64; torch's own BatchNorm2d is what one process runs."""
    alone, together = found
    expected = alone["batch norm"]
    # Sums of 6 * 9 numbers around 5, and their differences; gradients of up to 1e3.
    tolerance = 1e-12
    for rank, one in enumerate(together):
        for name, value in one["batch norm"].items():
            whole = expected[name]
            rows = name.startswith(("output", "input gradient"))
            whole = whole[3 * rank : 3 * rank + 3] if rows else whole
            scale = max(1.0, whole.abs().max().item())
            torch.testing.assert_close(value, whole, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: n + m)
    assert expected["state 1.num_batches_tracked"].item() == 3
    assert expected["state 1.running_mean"].abs().min() > 0.1


@SLOW
def test_both_ranks_have_the_same_bits(found: tuple[Any, list[Any]]) -> None:
    _, together = found
    first, second = (
        leaves({key: value for key, value in one.items() if key not in ("rank", "batch norm")}) for one in together
    )
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name], name


# In float64. A sum of 16 * 8 * 8 = 1024 terms is rounded 1024 times by 2^-53: 4e-15 of it where the errors are
# independent. Gradients of alphas are differences of sums that are alike to one in a thousand or more, and Adam divides
# them by their size; what is left is handed on for 9 steps.
TOLERANCE = 1e-10


@SLOW
@pytest.mark.parametrize("algorithm", ["gradient", "two-path", "reinforce", "evolution"])
def test_a_search_by_two_processes_is_that_of_one(found: tuple[Any, list[Any]], algorithm: str) -> None:
    """Weights, alphas, optimisers, multipliers, what was pruned and evaluated."""
    alone, together = found
    assert_alike(together[0][algorithm], alone[algorithm], TOLERANCE)
    if algorithm == "two-path":
        assert sum(len(row["pruned"]) for row in alone[algorithm]["history"]) > 0


@SLOW
def test_a_corrupt_checkpoint_is_moved_once(found: tuple[Any, list[Any]], tmp_path: Path) -> None:
    _, together = found
    checkpoint = tmp_path / "two-path.ckpt"
    checkpoint.write_text("half")
    again = run("one", tmp_path, RANKS)
    ours, theirs = leaves(again[1]["two-path"]), leaves(together[1]["two-path"])
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name], name
    assert [path.read_text() for path in tmp_path.glob("*.corrupt-*")] == ["half"]


@SLOW
def test_a_training_by_two_processes_is_that_of_one(found: tuple[Any, list[Any]]) -> None:
    alone, together = found
    assert_alike(together[0]["train"], alone["train"], TOLERANCE)


@SLOW
def test_texts_and_means(found: tuple[Any, list[Any]]) -> None:
    _, together = found
    for one in together:
        assert one["texts"]["text"] == "größe: 3 " * 1000
        assert one["texts"]["mean"] == 0.5
        matrix, vector = one["texts"]["tensors"]
        assert matrix.tolist() == [[0.5] * 3] * 2
        assert vector.tolist() == [0.0, 1.5, 3.0, 4.5]


@SLOW
def test_a_search_killed_on_one_rank_resumes_to_the_same_bits(tmp_path: Path) -> None:
    """Three batches an epoch: the kill is in the second epoch, so one epoch is in the checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run("search", whole, RANKS)
    broken.mkdir()
    first, second = start("search", broken, RANKS, kill_at=8)
    try:
        second.wait(timeout=120)
        assert second.returncode == -signal.SIGKILL
    finally:
        # The other one waits for it, or has seen that it is gone.
        first.kill()
        printed, _ = first.communicate()
    assert printed.split() == ["1", "2"]
    assert not (broken / "out.0").exists()
    resumed = run("search", broken, RANKS)
    ours, theirs = leaves(resumed), leaves(expected)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, Tensor) else value == theirs[name], name


def test_alone_nothing_is_shared_or_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    parallel.join()
    assert (parallel.ranks(), parallel.rank()) == (1, 0)
    batch = torch.arange(5)
    assert torch.equal(parallel.share(batch), batch)
    tensors = [torch.ones(2)]
    parallel.average(tensors)
    parallel.average([])
    parallel.wait()
    parallel.send_text("nobody hears it")
    assert tensors[0].tolist() == [1.0, 1.0]
    assert parallel.mean(0.25, torch.device("cpu")) == 0.25
    module = nn.Sequential(nn.BatchNorm2d(2))
    assert type(parallel.synchronised(module)[0]) is nn.BatchNorm2d


def test_shares_are_of_one_size_and_a_batch_needs_a_row_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "ranks", lambda: 3)
    for rank, rows in enumerate([[0, 1], [2, 3], [4, 5]]):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        assert parallel.share(torch.arange(8)).tolist() == rows
    with pytest.raises(SettingsError, match=r"A batch of 2 cannot be shared by 3 processes: start fewer\."):
        parallel.share(torch.arange(2))
