"""This machine: CPU, caches and cores. The parsers take text; `detect_host` and `available_cpus` read the machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# For a level that the kernel does not describe, as in some containers and virtual machines: the smallest of x86-64
# servers since 2017 (Skylake-SP and Zen). They choose tile sizes; no time is computed from them.
DEFAULT_CACHES = {"l1d": 32 << 10, "l2": 512 << 10, "l3": 8 << 20}

# The x86 features that LLVM uses unasked where they are on, and what Linux calls them. What Linux does not list
# (AVX-VNNI-INT8, AVX10) builds on one of these, and LLVM switches off with a feature all that builds on it.
LINUX_NAMES = {
    "sse3": "pni",
    "ssse3": "ssse3",
    "sse4.1": "sse4_1",
    "sse4.2": "sse4_2",
    "sse4a": "sse4a",
    "popcnt": "popcnt",
    "lzcnt": "abm",
    "movbe": "movbe",
    "adx": "adx",
    "bmi": "bmi1",
    "bmi2": "bmi2",
    "tbm": "tbm",
    "gfni": "gfni",
    "avx": "avx",
    "f16c": "f16c",
    "fma": "fma",
    "fma4": "fma4",
    "xop": "xop",
    "avx2": "avx2",
    "avxvnni": "avx_vnni",
    "avxifma": "avx_ifma",
    "avx512f": "avx512f",
    "avx512cd": "avx512cd",
    "avx512bw": "avx512bw",
    "avx512dq": "avx512dq",
    "avx512vl": "avx512vl",
    "avx512ifma": "avx512ifma",
    "avx512vbmi": "avx512vbmi",
    "avx512vbmi2": "avx512_vbmi2",
    "avx512vnni": "avx512_vnni",
    "avx512bitalg": "avx512_bitalg",
    "avx512vpopcntdq": "avx512_vpopcntdq",
    "avx512vp2intersect": "avx512_vp2intersect",
    "avx512bf16": "avx512_bf16",
    "avx512fp16": "avx512_fp16",
}

# AVX-512 FP16 and what it builds on.
_FLOAT16_NEEDS = ("avx512fp16", "avx512f", "avx512bw", "avx512vl", "avx512dq")
_SIZE_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_CPUS = Path("/sys/devices/system/cpu")


@dataclass(frozen=True, kw_only=True)
class Host:
    """What was detected. Caches in bytes, as one core sees them; cores are physical.

    flags are what the machine offers, as Linux names it; llvm_features what LLVM takes `llvm_cpu` to have, as it does.
    """

    machine: str
    cpu_model: str
    llvm_cpu: str
    llvm_features: frozenset[str]
    flags: frozenset[str]
    cores: int
    l1d_bytes: int
    l2_bytes: int
    l3_bytes: int

    @property
    def vector_bits(self) -> int:
        """Width of the widest x86 vector registers that this machine really offers."""
        return 512 if "avx512f" in self.flags else 256 if "avx2" in self.flags else 128

    @property
    def float16(self) -> tuple[str, ...] | None:
        """The features that code for `llvm_cpu` takes to compute in vectors of float16; None where this machine cannot.

        A virtual machine may name an older CPU than it runs on.
        """
        if not {LINUX_NAMES[name] for name in _FLOAT16_NEEDS} <= self.flags:
            return None
        return () if "avx512fp16" in self.llvm_features else ("+avx512fp16",)

    @property
    def hidden_features(self) -> tuple[str, ...]:
        """What `llvm_cpu` implies and this machine lacks, as LLVM names it: a hypervisor may hide features of a CPU."""
        return tuple(
            name for name, flag in LINUX_NAMES.items() if name in self.llvm_features and flag not in self.flags
        )


def parse_cpuinfo(text: str) -> tuple[str, frozenset[str]]:
    """Model name and feature flags of the first CPU in the text of /proc/cpuinfo."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields.get("model name", "unknown CPU"), frozenset(fields.get("flags", "").split())


def parse_size(text: str) -> int:
    """Bytes of a size as sysfs writes it: `48K` -> 49152.

    Raises:
        ValueError: the text is not a size.
    """
    digits = text.strip()
    return int(digits[:-1]) * _SIZE_UNITS[digits[-1]] if digits[-1:] in _SIZE_UNITS else int(digits)


def parse_cpu_list(text: str) -> tuple[int, ...]:
    """CPU numbers of a list as sysfs writes it: `0-2,8` -> (0, 1, 2, 8).

    Raises:
        ValueError: the text is not such a list.
    """
    spans = [(first, last or first) for first, _, last in (part.partition("-") for part in text.strip().split(","))]
    return tuple(cpu for first, last in spans for cpu in range(int(first), int(last) + 1))


def cache_sizes(folder: Path) -> dict[str, int]:
    """Bytes of `l1d`, `l2` and `l3` from a CPU's `cache` folder in sysfs; `DEFAULT_CACHES` where it says nothing."""
    sizes = dict(DEFAULT_CACHES)
    for index in folder.glob("index*"):
        level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
        name = {"1": "l1d"}.get(level, f"l{level}")
        if kind != "Instruction" and name in sizes:
            sizes[name] = parse_size(size)
    return sizes


def one_cpu_per_core(available: Iterable[int], siblings: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The lowest available logical CPU of each physical core; a CPU without known siblings is its own core."""
    chosen: dict[tuple[int, ...], int] = {}
    for cpu in sorted(available):
        chosen.setdefault(siblings.get(cpu, (cpu,)), cpu)
    return tuple(chosen.values())


def available_cpus() -> tuple[int, ...]:
    """One logical CPU for each physical core that this process may use."""
    available = os.sched_getaffinity(0)
    lists = {cpu: _CPUS / f"cpu{cpu}" / "topology" / "thread_siblings_list" for cpu in available}
    siblings = {cpu: parse_cpu_list(file.read_text()) for cpu, file in lists.items() if file.is_file()}
    return one_cpu_per_core(available, siblings)


@cache
def detect_host() -> Host:
    """Describe this machine, naming the CPU as LLVM does."""
    # Imported here because TVM takes seconds to load and only detection needs its LLVM.
    from tvm.target import Target
    from tvm.target.codegen import llvm_get_cpu_features, llvm_get_system_cpu, llvm_get_system_triple

    cpuinfo = Path("/proc/cpuinfo")
    cpu_model, flags = parse_cpuinfo(cpuinfo.read_text() if cpuinfo.is_file() else "")
    llvm_cpu = str(llvm_get_system_cpu())
    cpu = Target({"kind": "llvm", "mtriple": str(llvm_get_system_triple()), "mcpu": llvm_cpu})
    cpus = available_cpus()
    caches = cache_sizes(_CPUS / f"cpu{cpus[0]}" / "cache")
    return Host(
        machine=platform.machine(),
        cpu_model=cpu_model,
        llvm_cpu=llvm_cpu,
        llvm_features=frozenset(map(str, llvm_get_cpu_features(cpu))),
        flags=flags,
        cores=len(cpus),
        l1d_bytes=caches["l1d"],
        l2_bytes=caches["l2"],
        l3_bytes=caches["l3"],
    )
