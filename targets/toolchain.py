"""Toolchains: what turns object files into a shared library for a target."""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from targets.target import Target

HOST_COMPILERS = ("cc", "gcc", "clang")
ZIG = (sys.executable, "-m", "ziglang", "cc")

_ERROR_LINES = 12


class ToolchainError(RuntimeError):
    """No linker was found, or it refused."""


class Toolchain(Protocol):
    """Links for one target. An instance is what `export_library(..., fcompile=)` of TVM calls."""

    @property
    def output_format(self) -> str:
        """File name ending of what is linked, as TVM asks for it."""

    def __call__(self, output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        """Link object files into the shared library `output`."""


@dataclass(frozen=True)
class CompilerToolchain:
    """A C compiler driver, named by the words that start it."""

    command: tuple[str, ...]
    output_format: str = "so"

    def __call__(self, output: str, objects: Sequence[str], options: Sequence[str] | None = None) -> None:
        """Link object files into the shared library `output`; `options` are passed on.

        Raises:
            ToolchainError: the compiler cannot be started or refuses; the message ends with what it said.
        """
        # Symbolic: two libraries in one process may have functions of the same name, and each must call its own.
        # Stripped: TVM describes every loop variable for debuggers, by lines of no source.
        words = [*self.command, "-shared", "-fPIC", "-Wl,-Bsymbolic", "-s", "-o", output, *objects, *(options or ())]
        try:
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise ToolchainError(
                f"The C compiler {self.command[0]!r} could not be started ({error.strerror}). "
                "Set CC to one that works, or unset it."
            ) from error
        if done.returncode != 0:
            said = "\n".join(done.stderr.strip().splitlines()[-_ERROR_LINES:])
            raise ToolchainError(
                f"{' '.join(self.command)} could not link {output} (exit code {done.returncode}). It said:\n{said}"
            )


def _host_toolchain(environ: Mapping[str, str]) -> Toolchain:
    try:
        words = shlex.split(environ.get("CC", ""))
    except ValueError as error:
        raise ToolchainError(f"CC={environ['CC']} cannot be read ({error}). Mend its quotes, or unset it.") from error
    if words:
        return CompilerToolchain(tuple(words))
    for name in HOST_COMPILERS:
        if found := shutil.which(name, path=environ.get("PATH", os.defpath)):
            return CompilerToolchain((found,))
    if importlib.util.find_spec("ziglang"):
        return CompilerToolchain(ZIG)
    raise ToolchainError(
        f"No C compiler was found (looked for {', '.join(HOST_COMPILERS)} and the ziglang package), and compiled "
        'networks must be linked. Install one with: pip install "netlathe[cc]"'
    )


TOOLCHAINS: dict[str, Callable[[Mapping[str, str]], Toolchain]] = {"host": _host_toolchain}


def find_toolchain(target: Target, environ: Mapping[str, str] = os.environ) -> Toolchain:
    """The toolchain that the target names; for `host` that is $CC, a C compiler on $PATH or ziglang, in this order.

    Raises:
        ToolchainError: none is installed, or $CC is no command.
    """
    return TOOLCHAINS[target.toolchain](environ)
