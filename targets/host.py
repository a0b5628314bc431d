"""This machine: CPU, caches and cores. The parsers take text; only `detect_host` reads the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

TRIPLE = "x86_64-linux-gnu"

# LLVM names of the extensions that a hypervisor or kernel may hide although the CPU model implies them.
_HIDEABLE = ("avx", "fma", "f16c", "gfni", "vaes", "vpclmulqdq")
_SIZE_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30}


class HostError(RuntimeError):
    """This machine cannot be described, so nothing can be tuned for it or measured on it."""


@dataclass(frozen=True, kw_only=True)
class Host:
    """What was detected. Cache sizes in bytes, as one core sees them; 0 where the level does not exist."""

    cpu_model: str
    mcpu: str
    hidden_features: tuple[str, ...]
    vector_bits: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int
    cores: int


def parse_size(text: str) -> int:
    """Bytes of a sysfs size: `48K` -> 49152.

    Raises:
        HostError: the text is not a size.
    """
    number, unit = text.strip()[:-1], text.strip()[-1:].upper()
    if unit.isdigit():
        number, unit = text.strip(), ""
    if not number.isdigit() or unit not in {"", *_SIZE_UNITS}:
        raise HostError(f"{text.strip()!r} is not a cache size such as 1024K.")
    return int(number) * _SIZE_UNITS.get(unit, 1)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers of a sysfs list: `0-2,8` -> (0, 1, 2, 8).

    Raises:
        HostError: the text is not a list of CPU numbers.
    """
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit():
            raise HostError(f"{text.strip()!r} is not a list of CPU numbers such as 0-3,8.")
        cpus.extend(range(int(first), int(last or first) + 1))
    return tuple(cpus)


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Model name and feature flags of the first CPU in /proc/cpuinfo.

    Raises:
        HostError: the text names no model or no flags.
    """
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if not fields.get("model name") or not fields.get("flags"):
        raise HostError("/proc/cpuinfo names no CPU model or no flags, so this CPU cannot be told from others.")
    return " ".join(fields["model name"].split()), frozenset(fields["flags"].split())


def vector_bits(flags: Iterable[str]) -> int:
    """Width in bits of the widest vector registers that these flags of /proc/cpuinfo allow."""
    present = set(flags)
    return 512 if "avx512f" in present else 256 if {"avx2", "fma"} <= present else 128


def hidden_features(implied: Iterable[str], flags: Iterable[str]) -> tuple[str, ...]:
    """LLVM attributes that switch off what the CPU model implies and this machine does not offer.

    Without them code for a CPU behind a masking hypervisor dies of SIGILL.

    Args:
        implied: LLVM's features of the CPU model, such as `avx512vnni`.
        flags: Linux's names of what is there, such as `avx512_vnni`.
    """
    present = {flag.replace("_", "") for flag in flags}
    return tuple(sorted(f"-{name}" for name in implied if name.startswith(_HIDEABLE) and name not in present))


def cache_sizes(caches: Iterable[Mapping[str, str]]) -> dict[str, int]:
    """Bytes of the L1 data, L2 and L3 cache from the `level`, `type` and `size` files of sysfs; 0 where absent."""
    sizes = {"l1d_bytes": 0, "l2_bytes": 0, "l3_bytes": 0}
    for entry in caches:
        level, kind = entry["level"].strip(), entry["type"].strip()
        name = f"l{level}d_bytes" if level == "1" else f"l{level}_bytes"
        if kind != "Instruction" and name in sizes:
            sizes[name] = parse_size(entry["size"])
    return sizes


def one_cpu_per_core(available: Iterable[int], siblings: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The lowest available logical CPU of each physical core; a CPU without known siblings is its own core."""
    chosen: dict[tuple[int, ...], int] = {}
    for cpu in sorted(available):
        chosen.setdefault(siblings.get(cpu, (cpu,)), cpu)
    return tuple(chosen.values())


def available_cpus(sysfs: Path = Path("/sys/devices/system/cpu")) -> tuple[int, ...]:
    """One logical CPU for each physical core that this process may use."""
    available = os.sched_getaffinity(0)
    lists = {cpu: sysfs / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in available}
    return one_cpu_per_core(
        available, {cpu: parse_cpu_list(file.read_text()) for cpu, file in lists.items() if file.is_file()}
    )


def read_cpuinfo(path: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """Model name and flags of this machine's CPU.

    Raises:
        HostError: this is not Linux on x86-64.
    """
    if platform.machine() not in {"x86_64", "AMD64"} or not path.is_file():
        raise HostError(
            f"The x86 targets need Linux on an x86-64 CPU; this machine is {platform.system()} on {platform.machine()}."
            " Choose a target of this machine's kind; `netlathe targets` lists them."
        )
    return parse_cpuinfo(path.read_text())


@cache
def detect_host() -> Host:
    """Describe this machine, in LLVM's words where the compiler needs them.

    Raises:
        HostError: this is not Linux on x86-64, or the system files are not as expected.
    """
    # Imported here because TVM takes seconds to load and only detection needs its LLVM.
    from tvm.target import Target as TVMTarget
    from tvm.target import codegen

    cpu_model, flags = read_cpuinfo()
    mcpu = str(codegen.llvm_get_system_cpu())
    implied = codegen.llvm_get_cpu_features(TVMTarget({"kind": "llvm", "mtriple": TRIPLE, "mcpu": mcpu}))
    cpus = available_cpus()
    folders = sorted(Path(f"/sys/devices/system/cpu/cpu{cpus[0]}/cache").glob("index*"))
    return Host(
        cpu_model=cpu_model,
        mcpu=mcpu,
        hidden_features=hidden_features(map(str, implied), flags),
        vector_bits=vector_bits(flags),
        cores=len(cpus),
        **cache_sizes({name: (folder / name).read_text() for name in ("level", "type", "size")} for folder in folders),
    )
