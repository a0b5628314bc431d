"""Linking: with the host's compiler, with zig, and what is said where there is neither or the linker fails."""

import ctypes
import importlib.util
import os
import subprocess
from pathlib import Path

import pytest

from targets.registry import get_target
from targets.toolchain import CROSS, ZIG, CompilerToolchain, Toolchain, ToolchainError, find_toolchain

TARGET = get_target("x86")


@pytest.fixture(autouse=True)
def no_cc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CC", raising=False)


@pytest.fixture
def object_file(tmp_path: Path) -> Path:
    source, path = tmp_path / "answer.c", tmp_path / "answer.o"
    source.write_text("int answer(void) { return 42; }\n")
    subprocess.run([*find_toolchain(TARGET).command, "-c", "-fPIC", "-o", path, source], check=True)
    return path


def check_links(toolchain: Toolchain, object_file: Path) -> None:
    output = object_file.with_suffix(".so")
    toolchain(str(output), [str(object_file)])
    assert ctypes.CDLL(str(output)).answer() == 42


def test_what_is_found_links(object_file: Path) -> None:
    check_links(find_toolchain(TARGET), object_file)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed")
def test_zig_links_where_there_is_no_compiler(object_file: Path, tmp_path: Path) -> None:
    toolchain = find_toolchain(TARGET, {"PATH": str(tmp_path)})
    assert toolchain.command == ZIG
    check_links(toolchain, object_file)


def test_neither_compiler_nor_zig(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"pip install \"netlathe\[cc\]\""):
        find_toolchain(TARGET, {"PATH": str(tmp_path)})


@pytest.mark.parametrize("cc", [{}, {"CC": ""}, {"CC": " "}])
def test_the_first_compiler_on_the_path_given(tmp_path: Path, cc: dict[str, str]) -> None:
    for name in ("clang", "gcc"):
        (tmp_path / name).touch(mode=0o755)
    assert find_toolchain(TARGET, {"PATH": str(tmp_path), **cc}).command == (str(tmp_path / "gcc"),)


def test_a_failing_linker_is_quoted(tmp_path: Path) -> None:
    missing = tmp_path / "missing.o"
    with pytest.raises(ToolchainError, match=r"missing\.o"):
        find_toolchain(TARGET)(str(tmp_path / "out.so"), [str(missing)])


def test_cc_names_the_compiler() -> None:
    toolchain = find_toolchain(TARGET, {"CC": "ccache '/my tools/cc'"})
    assert toolchain.command == ("ccache", "/my tools/cc")


def test_cc_with_an_open_quote() -> None:
    with pytest.raises(ToolchainError, match=r"CC='/my tools/cc cannot be read .*Mend its quotes"):
        find_toolchain(TARGET, {"CC": "'/my tools/cc"})


def test_a_compiler_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ToolchainError, match=r"'no-such-compiler' could not be started .* Set CC"):
        find_toolchain(TARGET, {"CC": "no-such-compiler"})(str(tmp_path / "a.so"), [str(tmp_path / "a.o")])


@pytest.mark.parametrize("board", ["raspberry-pi-4", "armv7-cortex-a9", "riscv64"])
def test_machines_elsewhere_by_a_cross_gcc_or_a_line_to_install_one(
    board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = get_target(board)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=rf"No compiler for {target.toolchain} was found") as found:
        find_toolchain(target, {"PATH": str(tmp_path)})
    assert str(found.value).endswith(found.value.install)
    assert found.value.install == 'pip install "netlathe[cc]"'
    gcc = tmp_path / f"{CROSS[target.toolchain].gcc}-gcc"
    gcc.touch(mode=0o755)
    assert find_toolchain(target, {"PATH": str(tmp_path)}).static == (str(gcc),)


@pytest.mark.parametrize("target", ["x86", "raspberry-pi-4", "android-arm64", "armv7-cortex-a9", "riscv64"])
def test_on_linux_functions_are_a_librarys_own_and_programs_static(target: str) -> None:
    found = find_toolchain(get_target(target), {"PATH": os.environ["PATH"]})
    assert isinstance(found, CompilerToolchain)
    assert "-Wl,-Bsymbolic" in found.shared
    assert found.program == ("-static", "-Wl,--gc-sections")
    assert ("-nostdlib" in found.shared) == (target != "x86")


def test_macs_are_for_zig_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"No compiler for macOS .*pip install \"netlathe\[cc\]\""):
        find_toolchain(get_target("apple-m1"))


def test_what_is_missing_for_programs_and_libraries_is_said(tmp_path: Path) -> None:
    (tmp_path / "wrong.c").write_text("int main(void) { return undefined; }\n")
    with pytest.raises(ToolchainError, match=r"(?s)could not compile wrong\.c .*undefined"):
        find_toolchain(TARGET).compile([tmp_path / "wrong.c"])
    with pytest.raises(ToolchainError, match=r"(?s)could not link program .*install it \(glibc-static\)"):
        find_toolchain(TARGET).link_program([tmp_path / "missing.o"], tmp_path / "program")
    broken = CompilerToolchain(("cc",), ("cc",), ("no-such-ar",))
    with pytest.raises(ToolchainError, match=r"'no-such-ar' could not be started .* to write lib\.a\. It comes with"):
        broken.archive([tmp_path / "a.o"], tmp_path / "lib.a")


def test_phones_by_the_ndk_where_there_is_one(tmp_path: Path) -> None:
    phone = get_target("android-arm64")
    named = find_toolchain(phone, {"TVM_NDK_CC": "/ndk/bin/clang"})
    assert (named.command, named.archiver) == (("/ndk/bin/clang",), ("/ndk/bin/llvm-ar",))
    clang = tmp_path / "toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android29-clang"
    with pytest.raises(ToolchainError, match=r"ANDROID_NDK_HOME=.* has no toolchains/.* or unset it: Zig compiles"):
        find_toolchain(phone, {"ANDROID_NDK_HOME": str(tmp_path)})
    clang.parent.mkdir(parents=True)
    clang.touch(mode=0o755)
    found = find_toolchain(phone, {"ANDROID_NDK_HOME": str(tmp_path)})
    assert found.command == (str(clang),)
    assert found.shared == ("-Wl,-Bsymbolic", "-Wl,-z,max-page-size=16384")
    pytest.importorskip("ziglang")
    assert find_toolchain(phone, {}).command[:3] == ZIG[:3]
