"""Compilers of CUDA: which is found, what it makes, and what it says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from targets import cuda_compiler
from targets.cuda_compiler import CudaCompiler, Nvcc, Nvrtc, cuda_compiler_version, find_cuda_compiler
from targets.toolchain import ToolchainError

KERNEL = 'extern "C" __global__ void twice(float* x) { x[threadIdx.x] *= 2.0f; }'
needs_nvcc = pytest.mark.skipif(not shutil.which("nvcc"), reason="there is no CUDA toolkit")


def assert_compiles(compiler: CudaCompiler) -> None:
    code = compiler.cubin(KERNEL, "sm_90")
    assert code[:4] == b"\x7fELF"
    assert b"twice" in code
    with pytest.raises(ToolchainError, match=r"could not compile a kernel\. It said:\n.*error"):
        compiler.cubin(KERNEL.replace("float*", "folat*"), "sm_90")


def test_nvrtc_is_found_first() -> None:
    found = find_cuda_compiler({"PATH": ""})
    assert isinstance(found, Nvrtc)
    assert cuda_compiler_version() == found.version == found.facts[: len(found.version)]
    assert_compiles(found)


@needs_nvcc
def test_nvcc_is_found_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compiler, "_nvrtc", lambda: None)
    found = find_cuda_compiler()
    assert isinstance(found, Nvcc)
    assert found.version.startswith("nvcc 1")
    assert_compiles(found)


def test_a_toolkit_may_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compiler, "_nvrtc", lambda: None)
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho Cuda compilation tools, release 99.1, V99.1.2\n")
    nvcc.chmod(0o755)
    found = find_cuda_compiler({"CUDA_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert found == Nvcc(str(nvcc), "nvcc 99.1")


def test_none_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_compiler, "_nvrtc", lambda: None)
    with pytest.raises(ToolchainError, match=r'looked for NVRTC and nvcc.* pip install "netlathe\[cuda\]"'):
        find_cuda_compiler({"PATH": ""})
    monkeypatch.setenv("PATH", "")
    assert cuda_compiler_version() == "no compiler of CUDA"
