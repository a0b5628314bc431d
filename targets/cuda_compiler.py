"""Compilers of CUDA C++, which need no GPU: NVRTC, which pip installs, or the nvcc of a toolkit."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

from targets.toolchain import ToolchainError

INSTALL_NVRTC = 'pip install "netlathe[cuda]"'
_ERROR_LINES = 12
_OPTIONS = ("-default-device",)

# What TVM's device code includes of the CUDA C++ standard library, whose own headers take ten times as long to compile
# as a kernel; a few names, of which no kernel uses more than the integers.
_TYPES = " ".join(
    f"typedef {'unsigned ' if sign else 'signed '}{name} {sign}int{bits}_t;"
    for bits, name in ((8, "char"), (16, "short"), (32, "int"), (64, "long long"))
    for sign in ("", "u")
)
_TRAITS = "".join(
    [
        "template <class, class> struct is_same; template <class, class> constexpr bool is_same_v = false; ",
        *(
            f"template <class> struct {name}; "
            for name in ("is_integral", "is_signed", "is_unsigned", "is_floating_point")
        ),
        "template <bool, class = void> struct enable_if; template <bool, class, class> struct conditional; ",
    ]
)
_HEADERS = {
    "cuda/std/cstdint": f"namespace cuda {{ namespace std {{ {_TYPES} }} }}",
    "cuda/std/type_traits": f"namespace cuda {{ namespace std {{ {_TRAITS}}} }}",
}


class CudaCompiler(Protocol):
    """Compiles device code."""

    @property
    def version(self) -> str:
        """What it is, in a word and a number."""
        ...

    @property
    def facts(self) -> str:
        """All that decides what it makes of a text, beside the text."""
        ...

    def cubin(self, text: str, arch: str) -> bytes:
        """Machine code for `sm_90` and the like, which a driver loads.

        Raises:
            ToolchainError: the compiler refuses.
        """
        ...


@dataclass(frozen=True)
class Nvrtc:
    """NVIDIA's compiler as a library: NVRTC's documentation, version 12.

    include: the folder of cuda_fp16.h.
    """

    version: str
    include: str

    @property
    def facts(self) -> str:
        """See `CudaCompiler.facts`."""
        parts = ("nvidia-cuda-nvrtc-cu12", "nvidia-cuda-runtime-cu12")
        return f"{self.version} {[version(part) for part in parts]} {_OPTIONS} {_HEADERS}"

    def cubin(self, text: str, arch: str) -> bytes:
        """See `CudaCompiler.cubin`."""
        from cuda.bindings import nvrtc

        headers = [content.encode() for content in _HEADERS.values()]
        names = [name.encode() for name in _HEADERS]
        made, program = nvrtc.nvrtcCreateProgram(text.encode(), b"kernels.cu", len(headers), headers, names)
        if made != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise ToolchainError(f"NVRTC could not begin: {made}.")
        options = [f"--gpu-architecture={arch}", *_OPTIONS, f"-I{self.include}"]
        try:
            (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
            if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
                _, size = nvrtc.nvrtcGetProgramLogSize(program)
                log = bytearray(size)
                nvrtc.nvrtcGetProgramLog(program, log)
                raise ToolchainError(_refusal("NVRTC", log.decode(errors="replace").rstrip("\0")))
            _, size = nvrtc.nvrtcGetCUBINSize(program)
            code = bytearray(size)
            nvrtc.nvrtcGetCUBIN(program, code)
        finally:
            nvrtc.nvrtcDestroyProgram(program)
        return bytes(code)


@dataclass(frozen=True)
class Nvcc:
    """NVIDIA's compiler as a program."""

    command: str
    version: str

    @property
    def facts(self) -> str:
        """See `CudaCompiler.facts`."""
        return self.version

    def cubin(self, text: str, arch: str) -> bytes:
        """See `CudaCompiler.cubin`."""
        with TemporaryDirectory() as folder:
            source, code = Path(folder) / "kernels.cu", Path(folder) / "kernels.cubin"
            source.write_text(text)
            words = [self.command, "-cubin", f"-arch={arch}", "-O3", "-o", str(code), str(source)]
            done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
            if done.returncode:
                raise ToolchainError(_refusal(self.command, done.stderr))
            return code.read_bytes()


def _refusal(compiler: str, said: str) -> str:
    errors = [line for line in said.splitlines() if "error" in line] or said.strip().splitlines()
    return f"{compiler} could not compile a kernel. It said:\n" + "\n".join(errors[:_ERROR_LINES])


def find_cuda_compiler(environ: Mapping[str, str] = os.environ) -> CudaCompiler:
    """NVRTC where pip installed it, else the nvcc of $CUDA_HOME or $PATH.

    Raises:
        ToolchainError: there is neither.
    """
    found = _nvrtc() or _nvcc(environ)
    if found is None:
        raise ToolchainError("No compiler for CUDA was found (looked for NVRTC and nvcc).", INSTALL_NVRTC)
    return found


def cuda_compiler_version() -> str:
    """That of the compiler that is found, in a word and a number."""
    try:
        return find_cuda_compiler().version
    except ToolchainError:
        return "no compiler of CUDA"


@lru_cache(1)
def _nvrtc() -> Nvrtc | None:
    try:
        from cuda.bindings import nvrtc
        from cuda.pathfinder import find_nvidia_header_directory

        include = find_nvidia_header_directory("cudart")
        status, major, minor = nvrtc.nvrtcVersion()
        version("nvidia-cuda-nvrtc-cu12"), version("nvidia-cuda-runtime-cu12")
    except (ImportError, RuntimeError, PackageNotFoundError):  # or the library itself is missing, or of a toolkit
        return None
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS or include is None:
        return None
    return Nvrtc(f"NVRTC {major}.{minor}", include)


def _nvcc(environ: Mapping[str, str]) -> Nvcc | None:
    home = environ.get("CUDA_HOME", "")
    path = f"{home}/bin{os.pathsep}{environ.get('PATH', os.defpath)}" if home else environ.get("PATH", os.defpath)
    command = shutil.which("nvcc", path=path)
    if command is None:
        return None
    done = subprocess.run([command, "--version"], capture_output=True, text=True, errors="replace", check=False)
    release = done.stdout.partition("release ")[2].partition(",")[0]
    return Nvcc(command, f"nvcc {release}") if done.returncode == 0 and release else None
