"""Programs, and what runs those of other machines."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from targets.emulator import ProgramError, launcher, run_program
from targets.registry import get_target


def test_what_is_put_before_a_program() -> None:
    board = get_target("raspberry-pi-4")
    assert launcher(get_target("x86")) == ()
    assert launcher(replace(board, emulator=("sh", "-c"))) == ("sh", "-c")
    assert launcher(replace(board, emulator=("no-such-emulator",))) is None
    assert launcher(replace(board, emulator=())) is None


def test_programs_that_fail_or_hang(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n$1\n")
    script.chmod(0o755)
    assert run_program(script, "echo hello", before=("sh",)) == "hello\n"
    with pytest.raises(ProgramError, match=r"script failed: exit code 1"):
        run_program(script, "false")
    with pytest.raises(ProgramError, match=r"script did not end within 0 s\."):
        run_program(script, "sleep 9", deadline_s=0.2)
    with pytest.raises(ProgramError, match=r"missing could not be started: No such file or directory\."):
        run_program(tmp_path / "missing")
