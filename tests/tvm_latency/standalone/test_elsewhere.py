"""The plain C form for other machines, under qemu."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from targets.boards import BOARDS
from targets.emulator import ProgramError, launcher, run_program
from targets.registry import get_target
from targets.target import DType
from tvm_latency.build import compile_onnx
from tvm_latency.opspec import WeightType
from tvm_latency.standalone.write import NETBENCH, SelfTest, probe_input, write_standalone

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
]
SIZE = 33
ONCE = ("--num_runs=1", "--min_secs=0", "--warmup_runs=0", "--json")


def write(
    model: onnx.ModelProto,
    target: str,
    folder: Path,
    threads: int = 1,
    weights: WeightType = "float32",
    dtype: DType = "float32",
) -> None:
    image = probe_input((1, 3, SIZE, SIZE))
    (expected,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: image})
    allowed = 1e-4 if weights == "float32" else 1e-2 if dtype == "float32" else 3e-2 * float(np.abs(expected).max())
    compiled = compile_onnx(model, get_target(target).with_threads(threads).with_dtype(dtype), weights)
    write_standalone(compiled, folder, "small", SelfTest(expected, allowed))


@pytest.mark.slow
@pytest.mark.parametrize("name", [board.name for board in BOARDS if board.emulator])
def test_every_board_gets_a_right_network(
    name: str, mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path
) -> None:
    board = get_target(name)
    write(mobile_network(SIZE), name, tmp_path)
    before = launcher(board)
    if before is None:
        pytest.skip(f"{board.emulator[0]} is not installed")
    found = json.loads(run_program(tmp_path / NETBENCH, *ONCE, before=before))
    assert found["max_abs_error"] <= 1e-4
    assert found["same_top1"]


@pytest.mark.parametrize(("threads", "weights"), [(2, "float32"), (1, "float16")])
def test_threads_and_half_weights_on_a_phone(
    threads: int, weights: WeightType, mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path
) -> None:
    write(mobile_network(SIZE), "android-arm64", tmp_path, threads, weights)
    before = launcher(get_target("android-arm64"))
    if before is None:
        pytest.skip("qemu-aarch64 is not installed")
    found = json.loads(run_program(tmp_path / NETBENCH, *ONCE, f"--num_threads={threads}", before=before))
    assert found["threads"] == threads


@pytest.mark.skipif(launcher(get_target("arm64-cortex-a76")) is None, reason="qemu-aarch64 is not installed")
def test_arithmetic_in_half_on_a_phone(mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    """What it answers is off by what float16 rounds, and not by less."""
    write(mobile_network(SIZE), "arm64-cortex-a76", tmp_path, weights="float16", dtype="float16")
    found = json.loads(run_program(tmp_path / NETBENCH, *ONCE, before=launcher(get_target("arm64-cortex-a76")) or ()))
    assert found["same_top1"]
    assert found["max_abs_error"] > 1e-4


@pytest.mark.skipif(launcher(get_target("raspberry-pi-5")) is None, reason="qemu-aarch64 is not installed")
def test_an_older_core_is_refused_with_a_sentence(
    mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path
) -> None:
    """Code for a Cortex-A76 on a Cortex-A53, which knows ARMv8.0."""
    write(mobile_network(SIZE), "raspberry-pi-5", tmp_path)
    with pytest.raises(ProgramError, match=r"netbench: this CPU lacks \w+, which the network was compiled for\."):
        run_program(tmp_path / NETBENCH, *ONCE, before=("qemu-aarch64", "-cpu", "cortex-a53"))
