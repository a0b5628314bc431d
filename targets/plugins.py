"""Plugins: programs as libraries, which `load_plugins.c` runs one after the other in one process."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile

from targets.runner import RunnerError
from targets.target import Target
from targets.toolchain import ToolchainError, find_toolchain

SOURCE = Path(__file__).with_name("load_plugins.c")


@dataclass(frozen=True)
class PluginLoader:
    """What runs plugins on a target."""

    target: Target

    def build(self, folder: Path) -> Path:
        """Compile it in a folder; the same bytes each time.

        Raises:
            RunnerError: it cannot be compiled.
        """
        source, program = folder / SOURCE.name, folder / SOURCE.stem
        copyfile(SOURCE, source)
        try:
            toolchain = find_toolchain(self.target)
            toolchain.compile([source])
            toolchain.link_program([source.with_suffix(".o")], program)
        except ToolchainError as error:
            raise RunnerError(f"What runs candidates on {self.target.name} cannot be compiled. {error}") from error
        return program
