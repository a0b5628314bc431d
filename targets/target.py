"""Target: a machine as data, and the registry of those that have a name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from targets.host import Host, detect_host

TargetKind = Literal["x86", "arm", "cuda"]

_FLOAT_BITS = 32
_X86_TRIPLE = "x86_64-linux-gnu"
# Architectural vector registers by width: SSE and AVX2 name 16, AVX-512 (EVEX) 32.
_X86_REGISTERS = {128: 16, 256: 16, 512: 32}


class TargetError(ValueError):
    """The name is no target's, or the target cannot be what was asked of it."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine: what code for it looks like and what it has. Frozen data; importing it loads no TVM.

    features are LLVM attributes beyond what mcpu implies (`-avx512fp16`); sizes are bytes as one core sees them;
    threads is how many cores the compiled network may use.
    """

    name: str
    kind: TargetKind
    cpu_model: str
    mtriple: str
    mcpu: str
    features: tuple[str, ...] = ()
    vector_bits: int
    vector_registers: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    cores: int
    threads: int = 1
    toolchain: str = "host"
    runner: str = "local"

    @property
    def lanes(self) -> int:
        """float32 values in one vector register."""
        return self.vector_bits // _FLOAT_BITS

    @property
    def fingerprint(self) -> str:
        """One printable line that differs wherever measured times must not mix.

        `x86 AMD EPYC (2 cores, 48/1024/32768 KiB) code znver5 threads 1`: the machine, the code built for it with
        the features that differ from its mcpu's, and the threads. Another runner than `local` is named at the end.
        """
        caches = "/".join(str(size >> 10) for size in (self.l1d_bytes, self.l2_bytes, self.l3_bytes))
        machine = f"{self.kind} {self.cpu_model} ({self.cores} cores, {caches} KiB)"
        code = f"code {self.mcpu}{''.join(self.features)} threads {self.threads}"
        via = f" via {self.runner}" if self.runner != "local" else ""
        return f"{machine} {code}{via}"

    def with_threads(self, threads: int) -> Target:
        """The same machine with another number of threads.

        Raises:
            TargetError: the machine does not have as many cores.
        """
        if not 1 <= threads <= self.cores:
            raise TargetError(
                f"{self.name} has {self.cores} usable physical core{'s' if self.cores > 1 else ''}; the number of "
                f"threads must be between 1 and that, not {threads}."
            )
        return replace(self, threads=threads)

    def tvm_attributes(self) -> dict[str, object]:
        """The dictionary that `tvm.target.Target` takes. `num-cores` is the threads the code may use."""
        attributes: dict[str, object] = {
            "kind": "llvm",
            "mtriple": self.mtriple,
            "mcpu": self.mcpu,
            "num-cores": self.threads,
        }
        return attributes | ({"mattr": list(self.features)} if self.features else {})


def _x86_code(host: Host, name: str, mcpu: str, vector_bits: int, features: tuple[str, ...] = ()) -> Target:
    """Code of one kind on this host's cores and caches."""
    if host.machine not in ("x86_64", "AMD64"):
        raise TargetError(
            f"{name} needs an x86-64 machine to detect and to measure on; this machine is {host.machine}. "
            "Run Netlathe on an x86-64 machine."
        )
    return Target(
        name=name,
        kind="x86",
        cpu_model=host.cpu_model,
        mtriple=_X86_TRIPLE,
        mcpu=mcpu,
        features=features,
        vector_bits=vector_bits,
        vector_registers=_X86_REGISTERS[vector_bits],
        l1d_bytes=host.l1d_bytes,
        l2_bytes=host.l2_bytes,
        l3_bytes=host.l3_bytes,
        cores=host.cores,
    )


def _x86(host: Host) -> Target:
    # Code that used what the machine hides would die of SIGILL.
    hidden = tuple(f"-{name}" for name in host.hidden_features)
    return _x86_code(host, "x86", host.llvm_cpu, host.vector_bits, hidden)


TARGETS: dict[str, Callable[[Host], Target]] = {
    "x86": _x86,
    "x86-64-v3": lambda host: _x86_code(host, "x86-64-v3", "x86-64-v3", 256),
    "x86-64-v4": lambda host: _x86_code(host, "x86-64-v4", "x86-64-v4", 512),
}


def get_target(name: str) -> Target:
    """The target of that name, on this host.

    Raises:
        TargetError: no target has that name (the message lists close matches), or this machine cannot be it.
    """
    if name not in TARGETS:
        close = difflib.get_close_matches(name, TARGETS)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise TargetError(f"Unknown target {name!r}. {meant}There are: {', '.join(TARGETS)}.")
    return TARGETS[name](detect_host())
