"""Instruction sets to compare for, and how every runtime is held to one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from targets.registry import get_target
from targets.toolchain import find_toolchain

_MASK = Path(__file__).with_name("cpuid_mask.c")
_ASK = "import torch; print(torch.backends.cpu.get_cpu_capability())"


class IsaError(RuntimeError):
    """Programs on this machine cannot be made to see another CPU."""


@dataclass(frozen=True, kw_only=True)
class Isa:
    """An instruction set.

    targets: ours; the first is what is compared, the others stand beside it.
    capability: what PyTorch calls it, where runtimes have to be held to it; None for all that the machine has.
    """

    name: str
    targets: tuple[str, ...]
    capability: str | None = None

    @property
    def suffix(self) -> str:
        """Of the files with its results."""
        return f"_{self.name}" if self.capability else ""

    def environment(self, folder: Path) -> Mapping[str, str]:
        """The variables with which every runtime takes this for the CPU's instruction set.

        folder: where the library that they name is built.

        Raises:
            IsaError: PyTorch, asked in a process with these variables, sees another.
        """
        if self.capability is None:
            return {}
        library = folder / "cpuid_mask.so"
        find_toolchain(get_target("x86"))(str(library), [str(_MASK)], ["-O2"])
        variables = {"LD_PRELOAD": " ".join([str(library), *os.environ.get("LD_PRELOAD", "").split()])}
        # PyTorch would believe its own variable.
        asked = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"} | variables
        done = subprocess.run([sys.executable, "-c", _ASK], env=asked, capture_output=True, text=True, check=False)
        seen = done.stdout.strip() or done.stderr
        if seen != self.capability:
            raise IsaError(
                f"Runtimes cannot be held to {self.name} here: PyTorch still sees {seen!r}. "
                "Usually the CPU or the hypervisor does not let CPUID fault (no `cpuid_fault` in /proc/cpuinfo); "
                "use an Intel machine."
            )
        return variables


FULL = Isa(name="all that the machine has", targets=("x86",))
AVX2 = Isa(name="avx2", targets=("x86-64-v3", "x86"), capability="AVX2")
