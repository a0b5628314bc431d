from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from pipeline import doctor
from pipeline.cli import app
from pipeline.errors import ExitCode
from targets.target import Target
from targets.toolchain import ToolchainError


def test_packages_that_are_missing_or_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = ["numpy>=2", "onnx>=999", "no-such-package-here>=1", "other-system; sys_platform == 'nowhere'"]
    monkeypatch.setattr(doctor, "requires", lambda name: wanted)
    python, numpy, onnx, missing = doctor._packages()
    assert python.ok
    assert numpy.ok
    assert not onnx.ok
    assert onnx.text.endswith("needed >=999: `pip install 'onnx>=999'`")
    assert (missing.ok, missing.text) == (False, "not installed: `pip install 'no-such-package-here>=1'`")


def test_a_tvm_that_does_not_load_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tvm.py").write_text("raise RuntimeError('undefined symbol: TVMFFI')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == ExitCode.TARGET
    assert "FAIL  import tvm" in result.output
    assert "cannot be loaded (status 1): RuntimeError: undefined symbol: TVMFFI. Install Netlathe" in result.output
    assert "Traceback" not in result.output


def test_a_full_disk_is_a_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    disk = next(check for check in doctor.examine(tmp_path) if check.name == "disk")
    assert (disk.ok, disk.text) == (False, "0.0 GB free; a run needs 0.5 GB")


def test_what_is_missing_for_other_machines_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "launcher", lambda board: ())
    monkeypatch.setattr(doctor, "find_toolchain", lambda board: None)
    monkeypatch.setattr(doctor, "find_spec", lambda name: object())
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    whole = doctor._elsewhere()
    compilers, emulators, rest = whole.text.split("; ")
    assert whole.ok
    assert compilers == "compilers for aarch64, android, macos, arm, riscv64"
    assert emulators == "emulators for aarch64, android, arm, riscv64"
    assert rest == "adb and ssh"

    def none(board: Target) -> None:
        raise ToolchainError("No compiler.", 'pip install "netlathe[cc]"')

    monkeypatch.setattr(doctor, "find_toolchain", none)
    monkeypatch.setattr(doctor, "launcher", lambda board: None if board.kind == "riscv" else ())
    monkeypatch.setattr(doctor, "find_spec", lambda name: None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    lacking = doctor._elsewhere()
    assert lacking.ok
    for what in (
        'no compiler for arm: `pip install "netlathe[cc]"`',
        "no qemu-riscv64 to test with: `apt install qemu-user`",
        'no adb to measure on phones with: `pip install "netlathe[adb]"`',
        "no ssh to measure on boards with: `apt install openssh-client`",
    ):
        assert what in lacking.text


def test_checks_are_printed_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    def examine(folder: Path) -> object:
        yield doctor.Check("first", True, "fine")
        raise KeyError("a bug in the second")

    monkeypatch.setattr(doctor, "examine", examine)
    assert "ok    first" in CliRunner().invoke(app, ["doctor"]).output


@pytest.mark.compiles
def test_a_machine_that_has_everything(tmp_path: Path) -> None:
    checks = list(doctor.examine(tmp_path))
    assert [check for check in checks if not check.ok] == []
    assert checks[-1].text.startswith("a block agrees with the ONNX reference to ")
