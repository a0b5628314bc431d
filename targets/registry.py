"""The targets that have a name: this machine, and those of `targets.boards` and `targets.gpus`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial

from targets.boards import BOARDS
from targets.gpu_device import find_gpu
from targets.gpus import GPUS, cuda
from targets.host import Host, detect_host
from targets.runners import with_runner
from targets.target import LOCAL, Target, TargetError

_X86_TRIPLE = "x86_64-linux-gnu"
# Architectural vector registers by width: SSE and AVX2 name 16, AVX-512 (EVEX) 32.
_X86_REGISTERS = {128: 16, 256: 16, 512: 32}


def _x86_code(
    host: Host,
    name: str,
    mcpu: str,
    vector_bits: int,
    features: tuple[str, ...] = (),
    float16: tuple[str, ...] | None = None,
) -> Target:
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
        float16=float16,
        l1d_bytes=host.l1d_bytes,
        l2_bytes=host.l2_bytes,
        l3_bytes=host.l3_bytes,
        cores=host.cores,
    )


def _x86(host: Host) -> Target:
    # Code that used what the machine hides would die of SIGILL.
    hidden = tuple(f"-{name}" for name in host.hidden_features)
    return _x86_code(host, "x86", host.llvm_cpu, host.vector_bits, hidden, host.float16)


def _cuda(_: Host) -> Target:
    found = find_gpu()
    if found is None:
        known = ", ".join(gpu.name for gpu in GPUS)
        raise TargetError(
            "There is no NVIDIA GPU with its driver here. Name one that is elsewhere by its compute capability: "
            f"{known}."
        )
    return cuda(
        name="cuda",
        cpu_model=found.name,
        mcpu=found.capability,
        l1d_bytes=found.shared_bytes,
        l2_bytes=found.l2_bytes,
        cores=found.multiprocessors,
        runner=LOCAL,
    )


def _elsewhere(machine: Target, _: Host) -> Target:
    return machine


TARGETS: dict[str, Callable[[Host], Target]] = {
    "x86": _x86,
    "x86-64-v3": lambda host: _x86_code(host, "x86-64-v3", "x86-64-v3", 256),
    "x86-64-v4": lambda host: _x86_code(host, "x86-64-v4", "x86-64-v4", 512),
    "cuda": _cuda,
    **{machine.name: partial(_elsewhere, machine) for machine in (*BOARDS, *GPUS)},
}


def get_target(name: str) -> Target:
    """The target of that name: another machine, or code on this host. After a `/` it says how many images an inference
    takes, after an `@` what measures there: `cuda-sm90/8@ssh:user@host` (see `targets.runners.with_runner`).

    Raises:
        TargetError: no target or runner has that name (the message lists close matches), this machine cannot be it, or
            there is no such number of images.
    """
    machine, at, runner = name.partition("@")
    machine, slash, images = machine.partition("/")
    if machine not in TARGETS:
        close = difflib.get_close_matches(machine, TARGETS)
        meant = f"Did you mean {' or '.join(close)}? " if close else ""
        raise TargetError(f"Unknown target {machine!r}. {meant}There are: {', '.join(TARGETS)}.")
    found = TARGETS[machine](detect_host())
    if slash and not images.isdecimal():
        raise TargetError(f"In {name!r}, {images!r} is no number of images: write {machine}/8.")
    found = found.with_batch(int(images)) if slash else found
    return with_runner(found, runner) if at else found
