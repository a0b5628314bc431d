"""Candidates for a GPU, sent and measured as those for boards are, with a driver that computes on this CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from targets.gpus import GPUS
from targets.remote import RemoteRunner
from targets.runner import PLUGIN, Failure, Job, Timing
from targets.runners import find_runner
from targets.shell import RemoteShell
from targets.target import LOCAL
from tvm_latency import gpu_network
from tvm_latency.candidate import build_candidate
from tvm_latency.opspec import OpSpec, stored_as

pytestmark = pytest.mark.compiles
H100 = GPUS[-1]
BLOCK = OpSpec(kind="mbconv", height=7, width=7, in_channels=16, out_channels=16, kernel=3, expand=3)
STEM = OpSpec(kind="conv", height=16, width=16, in_channels=3, out_channels=8, kernel=3, stride=2)


@pytest.fixture
def shell(tmp_path: Path, cuda_on_cpu: Any, monkeypatch: pytest.MonkeyPatch) -> RemoteShell:
    """The machine is this one, with the driver on its path."""
    monkeypatch.setattr(gpu_network, "find_cuda_compiler", lambda: cuda_on_cpu)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cuda_on_cpu.driver()))
    return RemoteShell(("sh", "-c"), ())


def test_the_gpu_of_this_machine_is_a_target(shell: RemoteShell) -> None:
    """What the driver says; another process, since this one may have asked before there was a driver."""
    code = "from targets.registry import get_target; print(get_target('cuda/2').fingerprint)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "cuda A CPU (4 cores, 64/1024/0 KiB) code sm_90 threads 1 of 2 images\n"
    without = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LD_LIBRARY_PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "There is no NVIDIA GPU with its driver here." in without.stderr


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_candidates_are_checked_and_timed(shell: RemoteShell, dtype: Any, tmp_path: Path) -> None:
    target, jobs = H100.with_dtype(dtype), []
    for number, op in enumerate((BLOCK, STEM)):
        module = tmp_path / f"{number}{PLUGIN}"
        build_candidate(stored_as([op], dtype), target, "plugin", module)
        jobs.append(Job(key=op.key, module=module, repeats=3, evict_bytes=1 << 20))
    runner = find_runner(replace(target, runner=LOCAL))
    assert runner.form == "plugin"
    results = list(runner.run([jobs, jobs]))
    assert [result.key for result in results] == [job.key for job in (*jobs, *jobs)]
    for result in results:
        assert isinstance(result, Timing), result
        assert len(result.samples_s) == 3
        assert result.clock_mhz == 1980
        assert result.answer is not None
        assert np.isfinite(result.answer.max_abs_error)


def test_a_machine_without_a_gpu_is_a_reason(
    shell: RemoteShell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_candidate([STEM], H100, "program", tmp_path / "stem.netbench")
    monkeypatch.setenv("CUDA_ON_CPU_NO_DEVICE", "1")
    (found,) = RemoteRunner(shell, str(tmp_path / "there"), 1).run([[Job(key="s", module=tmp_path / "stem.netbench")]])
    assert isinstance(found, Failure)
    assert "this machine lacks an NVIDIA GPU" in found.reason
