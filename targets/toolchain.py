"""Toolchains: what compiles C and links for a target."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from targets.host import available_cpus
from targets.target import Target

HOST_COMPILERS = ("cc", "gcc", "clang")
# The first with storage of its own for each thread.
ANDROID_API = 29
ZIG = (sys.executable, "-m", "ziglang", "cc")
ZIG_AR = (sys.executable, "-m", "ziglang", "ar")

# The first whose kernel says by name which extensions a CPU has: see standalone/cpu/cpu.c.
MACOS = "aarch64-macos.12.0"

INSTALL_ZIG = 'pip install "netlathe[cc]"'

_ERROR_LINES = 12


class ToolchainError(RuntimeError):
    """No linker was found, or it refused; `install` is what to type where something is missing."""

    def __init__(self, text: str, install: str = "") -> None:
        super().__init__(f"{text} Install it with: {install}" if install else text)
        self.install = install


class Toolchain(Protocol):
    """Compiles and links for one target. An instance is what `export_library(..., fcompile=)` of TVM calls."""

    @property
    def output_format(self) -> str:
        """File name ending of what is linked, as TVM asks for it."""

    def __call__(self, output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        """Link object files into the shared library `output`."""

    def compile(self, sources: Sequence[Path]) -> None:
        """Compile files of C or assembly into object files beside them."""

    def archive(self, objects: Sequence[Path], output: Path) -> None:
        """Put object files into a static library."""

    def link_program(self, objects: Sequence[Path], output: Path) -> None:
        """Link object files into a program that needs no library."""


@dataclass(frozen=True)
class CompilerToolchain:
    """A C compiler driver, named by the words that start it.

    static: those where it compiles C, and links programs; shared, program: further options for what is linked so;
    libraries: what programs need.
    """

    command: tuple[str, ...]
    static: tuple[str, ...]
    archiver: tuple[str, ...]
    # Symbolic: two libraries in one process may have functions of the same name, and each must call its own.
    shared: tuple[str, ...] = ("-Wl,-Bsymbolic",)
    program: tuple[str, ...] = ("-static", "-Wl,--gc-sections")
    libraries: tuple[str, ...] = ("-lm",)
    output_format: str = "so"

    def __call__(self, output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        """Link object files into the shared library `output`; `options` are passed on.

        Raises:
            ToolchainError: the compiler cannot be started or refuses; the message ends with what it said.
        """
        # Stripped: TVM describes every loop variable for debuggers, by lines of no source.
        words = ["-shared", "-fPIC", "-s", *self.shared, "-o", output, *objects, *(options or ())]
        _run(self.command, words, f"link {output}")

    def compile(self, sources: Sequence[Path]) -> None:
        """Compile files of C or assembly into object files beside them, for libraries and for programs.

        Raises:
            ToolchainError: see `__call__`.
        """

        def one(source: Path) -> None:
            words = ["-c", "-std=gnu11", "-O2", "-fPIC", "-fvisibility=hidden", "-o", source.with_suffix(".o").name]
            # An assembler looks for what it includes in the folder where it runs.
            _run(self.static, [*words, source.name], f"compile {source.name}", source.parent)

        # A compiler driver takes longer to start than to compile these.
        with ThreadPoolExecutor(len(available_cpus())) as pool:
            list(pool.map(one, sources))

    def archive(self, objects: Sequence[Path], output: Path) -> None:
        """Put object files into a static library.

        Raises:
            ToolchainError: see `__call__`.
        """
        output.unlink(missing_ok=True)
        missing = "It comes with the compiler's binutils."
        _run(self.archiver, ["rcs", str(output), *map(str, objects)], f"write {output.name}", missing=missing)

    def link_program(self, objects: Sequence[Path], output: Path) -> None:
        """Link object files into a program that needs no library, but for the one that macOS has every program use and
        the driver of a GPU.

        Raises:
            ToolchainError: see `__call__`.
        """
        words = ["-pthread", "-s", *self.program, "-o", str(output), *map(str, objects), *self.libraries]
        missing = "If a static C library is missing, install it (glibc-static), or set CC to `python -m ziglang cc`."
        refused = f"\n{missing}" if "-static" in self.program else ""
        _run(self.static, words, f"link {output.name}", refused=refused)


def _run(
    command: Sequence[str],
    words: Sequence[str],
    what: str,
    folder: Path | None = None,
    missing: str = "Set CC to a C compiler that works, or unset it.",
    refused: str = "",
) -> None:
    """Run it. missing, refused: what to do if it cannot be started, and if it fails.

    Raises:
        ToolchainError: one of these.
    """
    try:
        done = subprocess.run(
            [*command, *words], cwd=folder, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise ToolchainError(f"{command[0]!r} could not be started ({error.strerror}) to {what}. {missing}") from error
    if done.returncode != 0:
        said = "\n".join(done.stderr.strip().splitlines()[-_ERROR_LINES:])
        raise ToolchainError(
            f"{' '.join(command)} could not {what} (exit code {done.returncode}). It said:\n{said}{refused}"
        )


def _host_toolchain(environ: Mapping[str, str]) -> CompilerToolchain:
    try:
        words = shlex.split(environ.get("CC", ""))
    except ValueError as error:
        raise ToolchainError(f"CC={environ['CC']} cannot be read ({error}). Mend its quotes, or unset it.") from error
    for name in HOST_COMPILERS:
        if not words and (found := shutil.which(name, path=environ.get("PATH", os.defpath))):
            words = [found]
    if words:
        return CompilerToolchain(tuple(words), tuple(words), ("ar",))
    if importlib.util.find_spec("ziglang"):
        return CompilerToolchain(ZIG, (*ZIG, "-target", "x86_64-linux-musl"), ZIG_AR)
    raise ToolchainError(
        f"No C compiler was found (looked for {', '.join(HOST_COMPILERS)} and the ziglang package), and compiled "
        "networks must be linked.",
        INSTALL_ZIG,
    )


@dataclass(frozen=True)
class Cross:
    """How compilers call a foreign machine: Zig by the C library, GNU's for shared libraries and musl for programs, and
    Debian's gcc.
    """

    zig: str
    zig_static: str
    gcc: str


CROSS = {
    "aarch64": Cross("aarch64-linux-gnu.2.17", "aarch64-linux-musl", "aarch64-linux-gnu"),
    "arm": Cross("arm-linux-gnueabihf.2.17", "arm-linux-musleabihf", "arm-linux-gnueabihf"),
    "riscv64": Cross("riscv64-linux-gnu.2.27", "riscv64-linux-musl", "riscv64-linux-gnu"),
}


def _cross_toolchain(machine: str, environ: Mapping[str, str]) -> Toolchain:
    names = CROSS[machine]
    if importlib.util.find_spec("ziglang"):
        # Nothing of a C library is needed but what the loading process has. The linker's own alignment is right for the
        # pages of 16 KiB that new phones have, and for those of 64 KiB of servers.
        shared = (*CompilerToolchain.shared, "-nostdlib")
        return CompilerToolchain((*ZIG, "-target", names.zig), (*ZIG, "-target", names.zig_static), ZIG_AR, shared)
    gcc = shutil.which(f"{names.gcc}-gcc", path=environ.get("PATH", os.defpath))
    if gcc:
        return CompilerToolchain((gcc,), (gcc,), (f"{names.gcc}-ar",))
    raise ToolchainError(
        f"No compiler for {machine} was found (looked for the ziglang package and {names.gcc}-gcc).", INSTALL_ZIG
    )


def _android_toolchain(environ: Mapping[str, str]) -> Toolchain:
    """The NDK's where there is one. Else what Linux on the same CPU has: a program is static, and a library needs
    nothing but what loads it.
    """
    clang = environ.get("TVM_NDK_CC", "")
    if not clang and (home := environ.get("ANDROID_NDK_HOME")):
        found = sorted(Path(home).glob(f"toolchains/llvm/prebuilt/*/bin/aarch64-linux-android{ANDROID_API}-clang"))
        if not found:
            raise ToolchainError(
                f"ANDROID_NDK_HOME={home} has no toolchains/llvm/prebuilt/*/bin/aarch64-linux-android{ANDROID_API}-"
                "clang. Set it to the folder of an NDK, or unset it: Zig compiles for phones, too."
            )
        clang = str(found[0])
    if not clang:
        return _cross_toolchain("aarch64", environ)
    archiver = Path(clang).with_name("llvm-ar")
    # New phones have pages of 16 KiB, which old NDKs do not think of.
    shared = (*CompilerToolchain.shared, "-Wl,-z,max-page-size=16384")
    return CompilerToolchain((clang,), (clang,), (str(archiver),), shared)


def _macos_toolchain(_: Mapping[str, str]) -> Toolchain:
    """Zig, which signs what it links for Apple's machines as these ask for, and has the names of their one library."""
    if not importlib.util.find_spec("ziglang"):
        raise ToolchainError("No compiler for macOS was found (looked for the ziglang package).", INSTALL_ZIG)
    words = (*ZIG, "-target", MACOS)
    # Of TVM's functions it is the loading process that has them.
    shared = ("-Wl,-undefined,dynamic_lookup",)
    return CompilerToolchain(words, words, ZIG_AR, shared, ("-Wl,-dead_strip",))


def _cuda_toolchain(environ: Mapping[str, str]) -> Toolchain:
    """What is for the CPU beside a GPU: static, it could not load the driver. Zig's runs on older systems than this."""
    if importlib.util.find_spec("ziglang"):
        words = (*ZIG, "-target", "x86_64-linux-gnu.2.17")
        found = CompilerToolchain(words, words, ZIG_AR)
    else:
        found = _host_toolchain(environ)
    shared = (*found.shared, "-Wl,--no-as-needed", "-ldl")
    return replace(found, shared=shared, program=("-Wl,--gc-sections",), libraries=("-lm", "-ldl"))


TOOLCHAINS: dict[str, Callable[[Mapping[str, str]], Toolchain]] = {
    "host": _host_toolchain,
    "android": _android_toolchain,
    "macos": _macos_toolchain,
    "cuda": _cuda_toolchain,
    **{machine: partial(_cross_toolchain, machine) for machine in CROSS},
}


def find_toolchain(target: Target, environ: Mapping[str, str] = os.environ) -> Toolchain:
    """The toolchain that the target names; for `host` that is $CC, a C compiler on $PATH or ziglang, in this order.

    Raises:
        ToolchainError: none is installed, or $CC is no command.
    """
    return TOOLCHAINS[target.toolchain](environ)
