"""Target: a machine as data."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from targets.unit import EMULATED_INSTRUCTIONS, MILLISECONDS, Unit

TargetKind = Literal["x86", "arm", "riscv", "cuda"]

LOCAL, EMULATED, AWAY = "local", "emulated", "away"
"""Runners of machines that nobody says how to reach: this one, one that is emulated, one that nothing here runs."""

Stored = Literal["float32", "float16"]
"""What numbers are passed on as."""

DType = Literal["float32", "tf32", "float16"]
"""What numbers are computed as. tf32: float32, of which products take 11 significant bits, on a GPU's matrix units."""

MOST_IMAGES = 1024
"""Of an inference."""

DTYPE_BYTES: dict[DType, int] = {"float32": 4, "tf32": 4, "float16": 2}


class TargetError(ValueError):
    """The name is no target's, or the target cannot be what was asked of it."""


def file_name(name: str) -> str:
    """The name of a target, of characters that every file system takes."""
    return re.sub(r"[^\w.@-]+", "_", name)


def unit_of(runner: str) -> Unit:
    """What the figures of a target are that is measured so."""
    return EMULATED_INSTRUCTIONS if runner == EMULATED else MILLISECONDS


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine: what code for it looks like and what it has. Frozen data; importing it loads no TVM.

    features are LLVM attributes beyond what mcpu implies (`-avx512fp16`); abi and float_abi what TVM calls `mabi` and
    `mfloat-abi`, empty for the triple's own; sizes are bytes as one core sees them; threads is how many cores the
    compiled network may use, batch how many images an inference takes; dtype is what it computes in, and float16 the
    features it takes to compute in that, None where vectors cannot. runner says what measures, as `targets.runners` has
    it; emulator is the command that runs a program for the machine on another.
    """

    name: str
    kind: TargetKind
    cpu_model: str
    mtriple: str
    mcpu: str
    features: tuple[str, ...] = ()
    abi: str = ""
    float_abi: str = ""
    pointer_bits: int = 64
    vector_bits: int
    vector_registers: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    cores: int
    threads: int = 1
    batch: int = 1
    float16: tuple[str, ...] | None = None
    dtype: DType = "float32"
    toolchain: str = "host"
    runner: str = LOCAL
    emulator: tuple[str, ...] = ()

    @property
    def lanes(self) -> int:
        """Numbers in one vector register."""
        return self.vector_bits // (8 * self.number_bytes)

    @property
    def stored(self) -> Stored:
        """What its numbers are passed on as."""
        return "float16" if self.dtype == "float16" else "float32"

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """What it can compute in."""
        half: tuple[DType, ...] = ("float16",) if self.float16 is not None else ()
        return ("float32", "tf32", *half) if self.kind == "cuda" else ("float32", *half)

    @property
    def number_bytes(self) -> int:
        """Bytes of a number that it computes with."""
        return DTYPE_BYTES[self.dtype]

    @property
    def machine(self) -> str:
        """The name without the runner."""
        return self.name.partition("@")[0]

    @property
    def ways(self) -> tuple[str, ...]:
        """How to ask for each runner that can measure there."""
        if self.kind == "cuda":
            return LOCAL, "ssh:USER@HOST", "bundle:FOLDER"
        if "linux" not in self.mtriple:
            return ("rpc:HOST:PORT",)
        return LOCAL, "adb", "ssh:USER@HOST", "rpc:HOST:PORT", "bundle:FOLDER"

    @property
    def in_process(self) -> bool:
        """Whether its libraries are loaded and timed here; a GPU here has its programs run, as one elsewhere does."""
        return self.runner == LOCAL and self.kind != "cuda"

    @property
    def unit(self) -> Unit:
        """What its figures are."""
        return unit_of(self.runner)

    @property
    def file_name(self) -> str:
        """See the function."""
        return file_name(self.name)

    @property
    def fingerprint(self) -> str:
        """One printable line that differs wherever measured times must not mix.

        `x86 AMD EPYC (2 cores, 48/1024/32768 KiB) code znver5 threads 1`: the machine, the code built for it with
        the features that differ from its mcpu's, and the threads. Another type than float32, several images and
        another runner than `local` are named at the end.
        """
        caches = "/".join(str(size >> 10) for size in (self.l1d_bytes, self.l2_bytes, self.l3_bytes))
        machine = f"{self.kind} {self.cpu_model} ({self.cores} cores, {caches} KiB)"
        code = f"code {self.mcpu}{''.join(self.features)} threads {self.threads}"
        numbers = f" in {self.dtype}" if self.dtype != "float32" else ""
        numbers += f" of {self.batch} images" if self.batch > 1 else ""
        via = f" via {self.runner}" if self.runner not in (LOCAL, AWAY) else ""
        return f"{machine} {code}{numbers}{via}"

    def with_threads(self, threads: int) -> Target:
        """The same machine with another number of threads.

        Raises:
            TargetError: the machine does not have as many cores.
        """
        if self.kind == "cuda" and threads != 1:
            raise TargetError(f"{self.name} computes on a GPU, with all of it: leave --threads out.")
        if not 1 <= threads <= self.cores:
            raise TargetError(
                f"{self.name} has {self.cores} usable physical core{'s' if self.cores > 1 else ''}; the number of "
                f"threads must be between 1 and that, not {threads}."
            )
        return replace(self, threads=threads)

    def with_batch(self, batch: int) -> Target:
        """The same machine, for so many images at once: `cuda-sm90/8`.

        Raises:
            TargetError: there are none, or more than a thousand.
        """
        if not 1 <= batch <= MOST_IMAGES:
            raise TargetError(f"An inference takes 1 to {MOST_IMAGES} images, not {batch}.")
        machine = self.name.partition("/")[0]
        return replace(self, name=f"{machine}/{batch}" if batch > 1 else machine, batch=batch)

    def with_dtype(self, dtype: DType) -> Target:
        """The same machine, computing in another type.

        Raises:
            TargetError: its vector units do not take the type.
        """
        if dtype == self.dtype:
            return self
        if dtype == "tf32" and dtype not in self.dtypes:
            raise TargetError(f"{self.name} does not compute in tf32, which GPUs from cuda-sm80 on do.")
        if dtype not in self.dtypes:
            raise TargetError(
                f"{self.name} does not compute in float16: that takes ARMv8.2 (android-arm64-v8.2 and every target "
                "named after a core from Cortex-A55 on), or AVX-512 FP16 on x86. `--weights float16` halves the "
                "artefact on any target and computes in float32."
            )
        extra = self.float16 or ()
        features = self.features[: len(self.features) - len(extra)] if self.dtype == "float16" else self.features
        features = (*features, *extra) if dtype == "float16" else features
        return replace(self, dtype=dtype, features=features)

    def tvm_attributes(self) -> dict[str, object]:
        """The dictionary that `tvm.target.Target` takes. `num-cores` is the threads the code may use."""
        if self.kind == "cuda":
            return {
                "kind": "cuda",
                "arch": self.mcpu,
                "max_threads_per_block": 1024,
                # What a kernel has without asking for more.
                "max_shared_memory_per_block": 48 << 10,
                "thread_warp_size": 32,
                "host": {"kind": "llvm", "mtriple": self.mtriple},
            }
        attributes: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.mtriple,
            "mcpu": self.mcpu,
            "num-cores": self.threads,
        }
        choices = {"mattr": list(self.features), "mabi": self.abi, "mfloat-abi": self.float_abi}
        return attributes | {name: value for name, value in choices.items() if value}
