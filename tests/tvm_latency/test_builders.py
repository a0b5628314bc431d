"""Candidates are built in processes of their own, whose end is a sentence and not ours."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from targets import child
from targets.target import get_target
from tvm_latency.builders import BuilderPool
from tvm_latency.opspec import OpSpec

TARGET = get_target("x86")
OPS = [OpSpec(kind="conv", height=4, width=4, in_channels=8, out_channels=8 * n) for n in (1, 2, 3)]
# More elements than an array may have.
HUGE = OpSpec(kind="linear", height=1, width=1, in_channels=1, out_channels=2**62)


def test_threads_build_in_as_many_processes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.so" for number in range(len(OPS))]
    with BuilderPool(TARGET, workers=2) as build, ThreadPoolExecutor(build.workers) as threads:
        assert list(threads.map(build, [(op,) for op in OPS], paths)) == paths
    for op, path in zip(OPS, paths):
        assert path.exists()
        with np.load(path.with_suffix(".npz")) as answer:
            assert answer["output"].shape == (1, 4, 4, op.out_channels)
    # Nothing here needs torch, and a process that never loads it starts faster; ours still may.
    assert sys.modules.get("torch", ...) is not None


def test_a_process_that_ends_or_hangs_is_a_reason_and_the_next_job_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with BuilderPool(TARGET, workers=1) as build:
        assert "ended with exit code 1: ValueError: array is too big" in str(build((HUGE,), tmp_path / "a.so"))
        assert build((OPS[0],), tmp_path / "b.so") == tmp_path / "b.so"
        build._deadline_s = 1e-3
        assert "the process that built it took longer than 0.001 s" in str(build((OPS[1],), tmp_path / "c.so"))
    monkeypatch.setattr(child.sys, "executable", "/bin/false")
    with BuilderPool(TARGET, workers=1) as build:
        assert build((OPS[0],), tmp_path / "d.so") == "the process that built it ended with exit code 1"


def test_what_cannot_be_linked_is_a_reason(tmp_path: Path) -> None:
    linker = tmp_path / "cc"
    linker.write_text("#!/bin/sh\necho no space left on the device >&2\nexit 1\n")
    linker.chmod(0o755)
    with BuilderPool(TARGET, workers=1, environ={"PATH": str(tmp_path)}) as build:
        reasons = [str(build((op,), tmp_path / "a.so")) for op in OPS[:2]]
    assert all("no space left on the device" in reason for reason in reasons)
    assert not (tmp_path / "a.so").exists()
