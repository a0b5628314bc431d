"""The adb runner with the real adb, its server and its protocol, and a phone that stands in for one."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from targets.registry import get_target
from targets.remote import RemoteRunner
from targets.runner import Answer, Failure, Job, RunnerError, Timing
from targets.runners import find_runner

adbutils = pytest.importorskip("adbutils")
TIMED = (0.001, 0.002, 0.003), Answer(1e-6, True)
pytestmark = [pytest.mark.compiles, pytest.mark.slow]


MakeJob = Callable[..., Job]


@pytest.fixture(scope="module")
def adbd() -> ModuleType:
    spec = importlib.util.spec_from_file_location("adbd", Path(__file__).with_name("adbd.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def phone(adbd: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A phone that is connected to an adb server of its own."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(free.getsockname()[1]))
    # Where it keeps its keys.
    monkeypatch.setenv("HOME", str(tmp_path))
    disk = tmp_path / "disk"
    disk.mkdir()
    made = adbd.Phone(disk)
    adb("connect", made.serial)
    yield made
    adb("kill-server")
    made.close()


def adb(*words: str) -> None:
    subprocess.run([adbutils.adb_path(), *words], check=True, capture_output=True, timeout=60)


def runner(phone: Any, return_s: float = 30.0) -> RemoteRunner:
    found = find_runner(get_target(f"android-arm64@adb:{phone.serial}"), deadline_s=5.0)
    assert isinstance(found, RemoteRunner)
    return replace(found, return_s=return_s)


def test_candidates_are_pushed_run_and_removed(phone: Any, tmp_path: Path, job: MakeJob) -> None:
    jobs = [job("a"), job("crash", "kill -SEGV $$"), job("wrong", "echo 'netbench: off' >&2; exit 1"), job("b")]
    assert list(runner(phone).run([jobs, jobs])) == [
        Timing("a", *TIMED),
        Failure("crash", "died of SIGSEGV"),
        Failure("wrong", "off"),
        *(Timing(key, *TIMED) for key in "bab"),
    ]
    assert list((tmp_path / "disk" / "netlathe").iterdir()) == []
    # The one phone that is connected needs no name, and has one all the same.
    assert get_target("android-arm64@adb").runner == f"adb:{phone.serial}"


@pytest.mark.parametrize("event", ["unplug", "restart"])
def test_a_phone_that_is_lost_in_the_middle_goes_on(phone: Any, tmp_path: Path, job: MakeJob, event: str) -> None:
    jobs = [job("a"), job("slow", f"touch {tmp_path}/slow; sleep 1"), job("c")]

    def lose() -> None:
        while not (tmp_path / "slow").exists():
            time.sleep(0.05)
        getattr(phone, event)()

    losing = threading.Thread(target=lose)
    losing.start()
    results = list(runner(phone).run([jobs, jobs]))
    losing.join()
    assert [result.key for result in results] == ["a", "slow", "c"] * 2
    assert all(isinstance(result, Timing) for result in results)


def test_a_process_that_is_killed_there_goes_on(phone: Any, tmp_path: Path, job: MakeJob) -> None:
    kill = f"[ -e {tmp_path}/once ] || {{ touch {tmp_path}/once; kill -9 $(cat ../netlathe.pid); }}"
    results = list(runner(phone).run([[job("a"), job("killed", kill), job("c")]]))
    assert results == [Timing(key, *TIMED) for key in ("a", "killed", "c")]


def test_a_phone_that_stays_away_is_told_within_the_deadline(phone: Any, tmp_path: Path, job: MakeJob) -> None:
    results = iter(runner(phone, return_s=3.0).run([[job("a"), job("slow", "sleep 1"), job("c")]]))
    assert next(results) == Timing("a", *TIMED)
    phone.close()
    start = time.monotonic()
    with pytest.raises(RunnerError, match="The machine did not answer within 3 s"):
        next(results)
    assert time.monotonic() - start < 90


def test_a_full_disk_fails_those_that_do_not_fit(phone: Any, tmp_path: Path, job: MakeJob) -> None:
    """The phone's tar has no room for the last program."""
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "tar").write_text(
        '#!/bin/sh\n/bin/tar "$@"\nfor last in "$4"/programs/*; do :; done\n: > "$last"\n'
        'echo "tar: No space left on device" >&2\nexit 1\n'
    )
    (tools / "tar").chmod(0o755)
    phone.path = str(tools)
    results = list(runner(phone).run([[job("a"), job("b"), job("c")]]))
    assert [result.key for result in results] == ["a", "b", "c"]
    failures = [result.reason for result in results if isinstance(result, Failure)]
    assert failures == ["its program did not arrive whole; is the disk of the machine full?"]


def test_no_phone_is_told(phone: Any, job: MakeJob) -> None:
    adb("disconnect", phone.serial)
    with pytest.raises(RunnerError, match=r"There is not one phone to measure on: .*no devices.* --runner adb:SERIAL"):
        get_target("android-arm64@adb")
    elsewhere = replace(runner(phone), return_s=1.0)
    nobody = replace(elsewhere.shell, words=(adbutils.adb_path(), "-s", "nobody", "shell", "-T"))
    with pytest.raises(RunnerError, match=r"cannot be reached \(adb: device 'nobody' not found\)"):
        list(replace(elsewhere, shell=nobody).run([[job("a")]]))
