"""The ways to a target, by their names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from targets.bundle import BundleRunner
from targets.local import LocalRunner
from targets.registry import get_target
from targets.remote import RemoteRunner
from targets.runner import RunnerError
from targets.runners import find_runner
from targets.target import TargetError


def test_a_target_names_its_runner_and_does_not_mix() -> None:
    plain, phone = get_target("android-arm64"), get_target("android-arm64@adb:R58")
    assert (phone.machine, phone.runner) == ("android-arm64", "adb:R58")
    assert len({plain.fingerprint, phone.fingerprint, get_target("android-arm64@adb:R59").fingerprint}) == 3
    assert get_target("raspberry-pi-4@ssh:pi@board").runner == "ssh:pi@board"
    assert get_target("x86@bundle:/some/where").file_name == "x86@bundle_some_where"


def test_every_runner() -> None:
    assert isinstance(find_runner(get_target("x86")), LocalRunner)
    ssh = find_runner(get_target("raspberry-pi-4@ssh:-p 22 pi@board"))
    assert isinstance(ssh, RemoteRunner)
    assert ssh.shell.words[0] == "ssh"
    assert ssh.shell.words[-3:] == ("-p", "22", "pi@board")
    here = Path.cwd()
    assert find_runner(get_target("raspberry-pi-4@bundle:there")) == BundleRunner(here / "there", 1)
    assert find_runner(get_target("raspberry-pi-4@bundle")) == BundleRunner(here / "bundle-raspberry-pi-4", 1)


def test_phones_by_serial_number_or_address() -> None:
    adbutils = pytest.importorskip("adbutils")
    for name, words, again in (
        ("adb:R58", ("-s", "R58"), 0),
        ("adb:10.0.0.7:5555", ("-s", "10.0.0.7:5555"), 2),
    ):
        found = find_runner(get_target(f"android-arm64@{name}").with_threads(2))
        assert isinstance(found, RemoteRunner)
        assert found.shell.words == (adbutils.adb_path(), *words, "shell", "-T")
        assert (len(found.shell.reconnect), found.threads) == (again, 2)


def test_what_is_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TargetError, match=r"Unknown runner 'abd'\. Did you mean adb\? There are: local, ssh, adb"):
        get_target("android-arm64@abd")
    with pytest.raises(TargetError, match=r"Unknown target 'android'\. Did you mean android-arm64"):
        get_target("android@adb")
    with pytest.raises(TargetError, match="write ssh:USER@HOST"):
        find_runner(get_target("raspberry-pi-4@ssh"))
    with pytest.raises(TargetError, match=r"ssh:'pi cannot be read .* Mend its quotes"):
        find_runner(get_target("raspberry-pi-4@ssh:'pi"))
    with pytest.raises(TargetError, match=r"Unknown runner 'emulated'\. .* A board without one is emulated\."):
        get_target("raspberry-pi-4@emulated")
    for runner in ("ssh:mac", "local", "bundle"):
        with pytest.raises(TargetError, match=r"does not measure on apple-m1\. .*--runner rpc:HOST:PORT\."):
            get_target(f"apple-m1@{runner}")
    for runner in ("adb", "rpc:here:1"):
        with pytest.raises(TargetError, match=r"does not measure on cuda-sm90\. .* ssh:USER@HOST, or .* bundle:FOLDER"):
            get_target(f"cuda-sm90@{runner}")
    for machine in ("apple-m1", "cuda-sm80"):
        with pytest.raises(RunnerError, match=r"is not this machine, and nothing emulates it\. Run its netbench there"):
            find_runner(get_target(machine))
    assert get_target("apple-m1@rpc:127.0.0.1:9090").runner == "rpc:127.0.0.1:9090"
    with pytest.raises(RunnerError, match="raspberry-pi-4@local cannot run on this machine"):
        find_runner(get_target("raspberry-pi-4@local"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunnerError, match=r"pip install \"netlathe\[adb\]\""):
        get_target("android-arm64@adb")
