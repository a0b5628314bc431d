"""Code for Apple's machines, which nothing here runs: its files, and its kernels on another system under qemu."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from macholib import mach_o
from macholib.MachO import MachO
from macholib.SymbolTable import SymbolTable
from onnx.reference import ReferenceEvaluator

from targets.emulator import launcher, run_program
from targets.registry import get_target
from targets.target import Target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.standalone.write import LIBRARY, NETBENCH, SelfTest, probe_input, write_standalone

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
]
SIZE = 33
APPLE = get_target("apple-m1")
# The same core, by another system's conventions.
ON_LINUX = replace(
    APPLE, mtriple="aarch64-linux-gnu", toolchain="aarch64", emulator=("qemu-aarch64", "-cpu", "max"), threads=2
)


def write(model: onnx.ModelProto, target: Target, folder: Path) -> Compiled:
    image = probe_input((1, 3, SIZE, SIZE))
    (expected,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: image})
    compiled = compile_onnx(model, target)
    write_standalone(compiled, folder, "small", SelfTest(np.asarray(expected), 1e-4))
    return compiled


def examine(file: Path) -> tuple[MachO, set[str]]:
    """A Mach-O file for macOS on arm64, signed as that demands, and the symbols that others have to give it."""
    found = MachO(str(file))
    (header,) = found.headers
    assert header.header.cputype == 0x0100000C
    commands = {load.cmd: command for load, command, _ in header.commands}
    assert mach_o.LC_CODE_SIGNATURE in commands
    assert commands[mach_o.LC_BUILD_VERSION].platform == 1
    assert commands[mach_o.LC_BUILD_VERSION].minos >> 16 == 12
    assert {name for _, _, name in header.walkRelocatables()} <= {"/usr/lib/libSystem.B.dylib"}
    return header, {name.decode() for _, name in SymbolTable(found, header).undefsyms}


def test_files_are_what_macos_takes(mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    compiled = write(mobile_network(SIZE), APPLE, tmp_path)
    program, _ = examine(tmp_path / NETBENCH)
    assert program.filetype == "execute"
    assert (tmp_path / LIBRARY).read_bytes().startswith(b"!<arch>\n")
    library, undefined = examine(compiled.export(tmp_path / "model.so"))
    assert library.filetype == "dylib"
    # Of TVM's runtime, and of C.
    assert {name for name in undefined if not name.startswith(("_TVM", "___tvm"))} <= {"_memset", "_memcpy", "dyld_stub_binder"}


@pytest.mark.skipif(launcher(ON_LINUX) is None, reason="qemu-aarch64 is not installed")
def test_its_kernels_compute_the_network(mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    write(mobile_network(SIZE), ON_LINUX, tmp_path)
    options = ("--num_runs=0", "--warmup_runs=0", "--num_threads=2", "--json")
    found = json.loads(run_program(tmp_path / NETBENCH, *options, before=launcher(ON_LINUX) or ()))
    assert found["max_abs_error"] <= 1e-4
