"""The ssh runner with the real ssh and a real sshd, on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from targets.registry import get_target
from targets.remote import RemoteRunner
from targets.runner import Answer, Failure, Job, RunnerError, Timing
from targets.runners import find_runner

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin:/sbin")
TIMED = (0.001, 0.002, 0.003), Answer(1e-6, True)
pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(SSHD is None or shutil.which("ssh") is None, reason="there is no sshd, or no ssh"),
]


MakeJob = Callable[..., Job]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[RemoteRunner]:
    """A runner for this machine, as a board that only ssh reaches."""
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    shutil.copy(tmp_path / "user.pub", tmp_path / "authorized")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        f"PidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([SSHD, "-D", "-e", "-f", tmp_path / "config"], stderr=(tmp_path / "log").open("w"))
    (tmp_path / "pid").write_text(str(daemon.pid))
    end = time.monotonic() + 30
    while "Server listening" not in (said := (tmp_path / "log").read_text()):
        assert daemon.poll() is None, said
        assert time.monotonic() < end, said
        time.sleep(0.05)
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    target = get_target(f"x86-64-v3@ssh:-p {port} -i {tmp_path}/user {options} 127.0.0.1")
    found = find_runner(target, deadline_s=5.0)
    assert isinstance(found, RemoteRunner)
    yield replace(found, folder=str(tmp_path / "board"), return_s=20.0)
    daemon.kill()
    daemon.wait()


def test_candidates_are_sent_run_and_removed(board: RemoteRunner, tmp_path: Path, job: MakeJob) -> None:
    jobs = [job("a"), job("crash", "kill -SEGV $$"), job("b")]
    assert list(board.run([jobs, jobs])) == [
        Timing("a", *TIMED),
        Failure("crash", "died of SIGSEGV"),
        *(Timing(key, *TIMED) for key in "bab"),
    ]
    assert list((tmp_path / "board").iterdir()) == []


def test_a_lost_session_goes_on(board: RemoteRunner, tmp_path: Path, job: MakeJob) -> None:
    """Every process of the connection is killed while the second candidate runs."""
    jobs = [job("a"), job("slow", f"touch {tmp_path}/slow; sleep 1"), job("c")]

    def cut() -> None:
        while not (tmp_path / "slow").exists():
            time.sleep(0.05)
        listed = subprocess.run(
            ["pgrep", "-P", (tmp_path / "pid").read_text()], capture_output=True, text=True, check=True
        )
        for process in listed.stdout.split():
            os.kill(int(process), signal.SIGKILL)

    cutting = threading.Thread(target=cut)
    cutting.start()
    results = list(board.run([jobs, jobs]))
    cutting.join()
    assert results == [Timing(key, *TIMED) for key in ("a", "slow", "c") * 2]


def test_a_board_that_refuses_is_told(board: RemoteRunner, tmp_path: Path, job: MakeJob) -> None:
    (tmp_path / "authorized").write_text("")
    with pytest.raises(RunnerError, match=r"cannot be reached \(.*Permission denied"):
        list(replace(board, return_s=1.0).run([[job("a")]]))
