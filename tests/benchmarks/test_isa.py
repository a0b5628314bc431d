from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.isa import AVX2, FULL, Isa, IsaError
from targets.registry import TARGETS

# TVM would handle the signal.
SEEN = "import tvm; from numpy._core._multiarray_umath import __cpu_features__ as f; print(f['AVX2'], f['AVX512F'])"


@pytest.mark.parametrize("isa", [FULL, AVX2], ids=lambda isa: isa.name)
def test_every_target_is_known(isa: Isa) -> None:
    assert set(isa.targets) <= set(TARGETS)


def test_nothing_is_hidden_from_a_full_comparison(tmp_path: Path) -> None:
    assert FULL.environment(tmp_path) == {}
    assert (FULL.suffix, AVX2.suffix) == ("", "_avx2")


@pytest.mark.skipif("cpuid_fault" not in Path("/proc/cpuinfo").read_text(), reason="CPUID does not fault here")
def test_a_process_held_to_avx2_sees_no_more(tmp_path: Path) -> None:
    variables = {**os.environ, **AVX2.environment(tmp_path)}
    seen = subprocess.run([sys.executable, "-c", SEEN], env=variables, capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["True", "False"]


def test_a_capability_that_pytorch_does_not_see_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsaError, match="Runtimes cannot be held to more here: PyTorch still sees 'AVX"):
        Isa(name="more", targets=("x86",), capability="AVX9").environment(tmp_path)
