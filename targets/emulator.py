"""qemu's user mode: runs a program for another machine on this one. Its time says nothing of that machine's."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from targets.target import LOCAL, Target


class ProgramError(RuntimeError):
    """A program failed, or could not be started."""


def launcher(target: Target) -> tuple[str, ...] | None:
    """The words before a program for the target that run it here: none on its own machine, None where nothing does."""
    if target.runner == LOCAL:
        return ()
    if target.emulator and shutil.which(target.emulator[0]):
        return target.emulator
    return None


def run_program(program: Path, *options: str, before: tuple[str, ...] = (), deadline_s: float = 300.0) -> str:
    """What a program prints.

    Raises:
        ProgramError: it fails, or takes longer than `deadline_s`; the message ends with what it said.
    """
    try:
        done = subprocess.run(
            [*before, str(program.resolve()), *options],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=deadline_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{program.name} did not end within {deadline_s:.0f} s.") from error
    except OSError as error:
        raise ProgramError(f"{program.name} could not be started: {error.strerror}.") from error
    if done.returncode != 0:
        said = done.stderr.strip() or f"exit code {done.returncode}"
        raise ProgramError(f"{program.name} failed: {said}")
    return done.stdout
