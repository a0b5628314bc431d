"""Candidates are built in processes of their own, whose end is a sentence and not ours."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from targets import child
from targets.registry import get_target
from tvm_latency.builders import BuilderPool
from tvm_latency.opspec import OpSpec

TARGET = get_target("x86")
OPS = [OpSpec(kind="conv", height=4, width=4, in_channels=8, out_channels=8 * n) for n in (1, 2, 3)]
# More elements than an array may have.
HUGE = OpSpec(kind="linear", height=1, width=1, in_channels=1, out_channels=2**62)


def built(pool: BuilderPool, folder: Path, *ops: OpSpec) -> dict[str, Path | str]:
    return dict(pool({str(number): ((op,), folder / f"{number}.so") for number, op in enumerate(ops)}))


def test_all_are_built_with_what_they_must_answer(tmp_path: Path) -> None:
    found = built(BuilderPool(TARGET, "library", workers=2), tmp_path, *OPS)
    assert found == {str(number): tmp_path / f"{number}.so" for number in range(len(OPS))}
    for number, op in enumerate(OPS):
        assert (tmp_path / f"{number}.so").exists()
        with np.load(tmp_path / f"{number}.npz") as answer:
            assert answer["output"].shape == (1, 4, 4, op.out_channels)
    # Nothing here needs torch, and a process that never loads it starts faster; ours still may.
    assert sys.modules.get("torch", ...) is not None


def test_a_process_that_ends_is_a_reason_and_the_next_candidate_has_another(tmp_path: Path) -> None:
    found = built(BuilderPool(TARGET, "library", workers=1), tmp_path, HUGE, OPS[0])
    assert "the process that built it ended with exit code 1: ValueError: array is too big" in str(found["0"])
    assert found["1"] == tmp_path / "1.so"


def test_a_process_that_hangs_is_a_reason(tmp_path: Path) -> None:
    found = built(BuilderPool(TARGET, "library", workers=2, deadline_s=1e-3), tmp_path, *OPS)
    assert set(found.values()) == {"the process that built it took longer than 0.001 s"}


def test_a_process_that_does_not_start_is_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child.sys, "executable", "/bin/false")
    found = built(BuilderPool(TARGET, "library", workers=1), tmp_path, OPS[0])
    assert found == {"0": "the process that built it ended with exit code 1"}


def test_stopping_ends_the_processes_at_once(tmp_path: Path) -> None:
    pool = BuilderPool(TARGET, "library", workers=2)
    results = pool({str(n): ((OPS[n % 3],), tmp_path / f"{n}.so") for n in range(50)})
    next(results)
    children = [child._process for child in pool._children]
    results.close()
    assert children
    assert all(process.returncode is not None for process in children)
    assert len(list(tmp_path.glob("*.so"))) < 50


def test_what_cannot_be_linked_is_a_reason(tmp_path: Path) -> None:
    linker = tmp_path / "cc"
    linker.write_text("#!/bin/sh\necho no space left on the device >&2\nexit 1\n")
    linker.chmod(0o755)
    found = built(BuilderPool(TARGET, "library", workers=1, environ={"PATH": str(tmp_path)}), tmp_path, *OPS[:2])
    assert all("no space left on the device" in str(reason) for reason in found.values())
    assert not (tmp_path / "0.so").exists()
