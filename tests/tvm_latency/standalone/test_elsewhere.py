"""The plain C form for other machines, under qemu."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from targets.boards import BOARDS
from targets.emulator import ProgramError, launcher, run_program
from targets.registry import get_target
from tvm_latency.build import Compiled
from tvm_latency.opspec import WeightType
from tvm_latency.standalone.write import NETBENCH

Write = Callable[..., Compiled]

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
]
ONCE = ("--num_runs=1", "--min_secs=0", "--warmup_runs=0", "--json")


@pytest.mark.slow
@pytest.mark.parametrize("name", [board.name for board in BOARDS if board.emulator])
def test_every_board_gets_a_right_network(name: str, write: Write, tmp_path: Path) -> None:
    board = get_target(name)
    write(board, tmp_path)
    before = launcher(board)
    if before is None:
        pytest.skip(f"{board.emulator[0]} is not installed")
    found = json.loads(run_program(tmp_path / NETBENCH, *ONCE, before=before))
    assert found["max_abs_error"] <= 1e-4
    assert found["same_top1"]


@pytest.mark.parametrize(("threads", "weights"), [(2, "float32"), (1, "float16")])
def test_threads_and_half_weights_on_a_phone(threads: int, weights: WeightType, write: Write, tmp_path: Path) -> None:
    write(get_target("android-arm64").with_threads(threads), tmp_path, weights)
    before = launcher(get_target("android-arm64"))
    if before is None:
        pytest.skip("qemu-aarch64 is not installed")
    found = json.loads(run_program(tmp_path / NETBENCH, *ONCE, f"--num_threads={threads}", before=before))
    assert found["threads"] == threads


@pytest.mark.skipif(launcher(get_target("arm64-cortex-a76")) is None, reason="qemu-aarch64 is not installed")
def test_arithmetic_in_half_on_a_phone(write: Write, tmp_path: Path) -> None:
    """What it answers is off by what float16 rounds, and not by less."""
    write(get_target("arm64-cortex-a76").with_dtype("float16"), tmp_path, "float16")
    found = json.loads(run_program(tmp_path / NETBENCH, *ONCE, before=launcher(get_target("arm64-cortex-a76")) or ()))
    assert found["same_top1"]
    assert found["max_abs_error"] > 1e-4


@pytest.mark.skipif(launcher(get_target("raspberry-pi-5")) is None, reason="qemu-aarch64 is not installed")
def test_an_older_core_is_refused_with_a_sentence(write: Write, tmp_path: Path) -> None:
    """Code for a Cortex-A76 on a Cortex-A53, which knows ARMv8.0."""
    write(get_target("raspberry-pi-5"), tmp_path)
    with pytest.raises(ProgramError, match=r"netbench: this CPU lacks \w+, which the network was compiled for\."):
        run_program(tmp_path / NETBENCH, *ONCE, before=("qemu-aarch64", "-cpu", "cortex-a53"))
