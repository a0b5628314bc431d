"""The code of kernels is compiled once: for every network, in every process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import tvm
from tvm import tirx

from targets.registry import get_target
from tvm_latency import kernel_code
from tvm_latency.build import compile_onnx
from tvm_latency.kernel_code import KernelCode
from tvm_latency.lower import Lowered, LoweringError

pytestmark = pytest.mark.compiles

TARGET = get_target("x86")
MakeNetwork = Callable[[int], onnx.ModelProto]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where kernels are kept, in a process that remembers none and finds none."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel_code._code.cache_clear()
    yield tmp_path
    kernel_code._code.cache_clear()


def test_every_kernel_has_an_object_file_that_the_next_network_uses_too(mobile_network: MakeNetwork) -> None:
    compiled = compile_onnx(mobile_network(17), TARGET)
    assert len(compiled.code) == len(compiled.kernels)
    assert all(kernel.object.startswith(b"\x7fELF") for kernel in compiled.code)
    before = kernel_code._code.cache_info()
    other = compile_onnx(mobile_network(18), TARGET)
    after = kernel_code._code.cache_info()
    assert after.hits - before.hits == len(set(compiled.code) & set(other.code)) > 0
    assert after.misses - before.misses == len(set(other.code) - set(compiled.code)) > 0


def test_a_kernel_of_another_body_or_for_another_target_has_code_of_its_own(mobile_network: MakeNetwork) -> None:
    model = mobile_network(17)
    code = compile_onnx(model, TARGET).code

    def emptied(lowered: Lowered) -> Lowered:
        functions = dict(lowered.module.functions_items())
        first = next(var for var in functions if var.name_hint in lowered.kernels)
        functions[first] = functions[first].with_body(tirx.Evaluate(0))
        return replace(lowered, module=tvm.IRModule(functions, attrs=lowered.module.attrs))

    assert len(set(code) & set(compile_onnx(model, TARGET, finish=emptied).code)) == len(code) - 1
    assert not set(code) & set(compile_onnx(model, replace(TARGET, mcpu="x86-64")).code)


@pytest.mark.usefixtures("cache")
def test_a_kernel_that_cannot_be_compiled_is_a_lowering_error(
    mobile_network: MakeNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("LLVM says no")

    monkeypatch.setattr("tvm.tirx.build", fail)
    with pytest.raises(LoweringError, match="The ONNX model cannot be compiled: LLVM says no"):
        compile_onnx(mobile_network(17), TARGET)


def test_what_is_on_disk_is_not_compiled_unless_it_is_damaged(
    mobile_network: MakeNetwork, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def build(module: Any, *arguments: Any, tirx_build: Any = tvm.tirx.build, **options: Any) -> Any:
        names = (var.name_hint for var, _ in module.functions_items())
        compiled.extend(name for name in names if name.endswith(kernel_code.code_of("")))
        return tirx_build(module, *arguments, **options)

    def code(target: Any = TARGET) -> tuple[KernelCode, ...]:
        kernel_code._code.cache_clear()
        compiled.clear()
        return compile_onnx(mobile_network(17), target).code

    monkeypatch.setattr("tvm.tirx.build", build)
    first = code()
    assert len(compiled) == len(first)
    assert code() == first
    assert not compiled
    code(replace(TARGET, mcpu="x86-64"))
    assert len(compiled) == len(first)
    with monkeypatch.context() as patch:
        patch.setattr(kernel_code, "_THIS_CODE", "of another version")
        assert code() == first
        assert len(compiled) == len(first)
    for file in cache.rglob("kernels/*"):
        file.write_bytes(file.read_bytes()[:-1])
    assert code() == first
    assert len(compiled) == len(first)


COMPILE = """
import sys
sys.modules["torch"] = None
import onnx
from targets.registry import get_target
from tvm_latency.build import compile_onnx
compile_onnx(onnx.load(sys.argv[1]), get_target("x86"))
"""


def test_processes_find_what_another_compiled(mobile_network: MakeNetwork, tmp_path: Path) -> None:
    """Two at once on an empty cache, then one whose hashes differ: it adds nothing."""
    onnx.save(mobile_network(17), tmp_path / "net.onnx")

    def start(seed: str) -> subprocess.Popen[str]:
        environ = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONHASHSEED": seed}
        return subprocess.Popen([sys.executable, "-c", COMPILE, tmp_path / "net.onnx"], env=environ, text=True)

    def files() -> dict[Path, int]:
        return {file: file.stat().st_ino for file in (tmp_path / "cache" / "netlathe" / "kernels").iterdir()}

    assert [process.wait(300) for process in [start("1"), start("2")]] == [0, 0]
    kept = files()
    assert len(kept) == len(set(compile_onnx(mobile_network(17), TARGET).code))
    assert start("3").wait(300) == 0
    assert files() == kept, "a file that is written anew is another one"
