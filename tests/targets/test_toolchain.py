"""Linking: with the host's compiler, with zig, and what is said where there is neither or the linker fails."""

import ctypes
import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest

from targets.target import get_target
from targets.toolchain import ToolchainError, find_toolchain

TARGET = get_target("x86")


@pytest.fixture
def object_file(tmp_path: Path) -> Path:
    source, path = tmp_path / "answer.c", tmp_path / "answer.o"
    source.write_text("int answer(void) { return 42; }\n")
    subprocess.run(["cc", "-c", "-fPIC", "-o", path, source], check=True)
    return path


def check_links(object_file: Path) -> None:
    output = object_file.with_suffix(".so")
    find_toolchain(TARGET)(str(output), [str(object_file)])
    assert ctypes.CDLL(str(output)).answer() == 42


def test_the_host_compiler_links(object_file: Path) -> None:
    assert "cc" in find_toolchain(TARGET).command[0]
    check_links(object_file)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_zig_links_where_there_is_no_compiler(object_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "ziglang" in find_toolchain(TARGET).command
    check_links(object_file)


def test_neither_compiler_nor_zig(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"pip install \"netlathe\[cc\]\""):
        find_toolchain(TARGET)


def test_a_failing_linker_is_quoted(tmp_path: Path) -> None:
    missing = tmp_path / "missing.o"
    with pytest.raises(ToolchainError, match=r"missing\.o"):
        find_toolchain(TARGET)(str(tmp_path / "out.so"), [str(missing)])


def test_cc_names_the_compiler() -> None:
    toolchain = find_toolchain(TARGET, {"CC": "ccache no-such-compiler"})
    assert toolchain.command == ("ccache", "no-such-compiler")


def test_a_compiler_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"'no-such-compiler' could not be started .* Set CC"):
        find_toolchain(TARGET, {"CC": "no-such-compiler"}).link_shared([tmp_path / "a.o"], tmp_path / "a.so")
