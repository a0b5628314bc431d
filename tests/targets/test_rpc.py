"""The RPC runner with TVM's own server and tracker: on this machine, and emulated, on a board with a 64-bit ARM.

The board is the folder NETLATHE_ARM_ROOT that benchmarks/arm_root.sh makes; without one only this machine serves.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
import tvm
from tvm import relax

from targets.registry import get_target
from targets.rpc import RpcRunner
from targets.runner import Answer, Failure, Job, RunnerError, Timing
from targets.runners import find_runner
from targets.target import Target, TargetError
from targets.toolchain import find_toolchain

pytestmark = pytest.mark.compiles
Start = Callable[..., subprocess.Popen[bytes]]


@dataclass(frozen=True)
class Board:
    """Where a server runs: its target, the Python there, and how many seconds a job may take there."""

    target: Target
    python: str
    deadline_s: float


HERE = Board(get_target("x86-64-v3"), sys.executable, 2.0)
ARM_ROOT = os.environ.get("NETLATHE_ARM_ROOT")
EMULATED = Board(get_target("arm64-cortex-a76"), f"{ARM_ROOT}/python", 30.0)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(HERE, id="here"),
        pytest.param(EMULATED, id="emulated", marks=pytest.mark.skipif(not ARM_ROOT, reason="no NETLATHE_ARM_ROOT")),
    ],
)
def board(request: pytest.FixtureRequest) -> Board:
    found: Board = request.param
    assert subprocess.run([found.python, "-c", ""], check=False).returncode == 0, "its Python needs qemu-aarch64"
    return found


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a Python module of TVM's; all end with the test, with what they have started."""
    started: list[subprocess.Popen[bytes]] = []

    def run(*words: object, python: str = sys.executable) -> subprocess.Popen[bytes]:
        environ = {**os.environ, "TVM_USE_RUNTIME_LIB": "1"}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        command = [python, "-m", *map(str, words)]
        started.append(subprocess.Popen(command, env=environ, start_new_session=True, **quiet))  # type: ignore[call-overload]
        return started[-1]

    yield run
    for process in started:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """With its workers, which are in groups of their own."""
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            child.kill()
    process.kill()
    process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def server(start: Start, board: Board, port: int, *words: object) -> subprocess.Popen[bytes]:
    where = ("--host", "127.0.0.1", "--port", port, "--port-end", port + 1)
    process = start("tvm.exec.rpc_server", *where, *words, python=board.python)
    wait_for(port)
    return process


def wait_for(port: int) -> None:
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    pytest.fail(f"nothing listens on {port}")


@pytest.fixture(scope="module")
def doubling(board: Board, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled module that doubles a [4, 8] tensor."""
    return compiled(board, tmp_path_factory.mktemp("modules") / "doubling.so", relax.op.add)


def compiled(board: Board, path: Path, op: Callable[..., relax.Expr]) -> Path:
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((4, 8), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(op(x, x)))
    executable = tvm.compile(builder.get(), tvm.target.Target(board.target.tvm_attributes()))
    executable.export_library(str(path), fcompile=find_toolchain(board.target))
    return path


def job(key: str, module: Path, answer: Path | None = None) -> Job:
    return Job(key=key, module=module, input_shapes=((4, 8),), repeats=3, warmup=1, evict_bytes=4096, answer=answer)


def library(board: Board, folder: Path, name: str, on_load: str) -> Path:
    """A shared library that runs C code when it is loaded."""
    source, path = folder / f"{name}.c", folder / f"{name}.so"
    # Without headers, which the toolchain for what TVM exports does not look for.
    declared = "void abort(void);\nunsigned sleep(unsigned);\n"
    source.write_text(f"{declared}__attribute__((constructor)) static void go(void) {{ {on_load} }}\n")
    find_toolchain(board.target)(str(path), [str(source)])
    return path


def answer(path: Path, value: float) -> Path:
    np.savez(path, input=np.ones((4, 8), np.float32), output=np.full((4, 8), value, np.float32), tolerance=1e-3)
    return path


@pytest.mark.slow
def test_libraries_are_uploaded_checked_and_timed_and_break_alone(
    start: Start, board: Board, doubling: Path, tmp_path: Path
) -> None:
    """Through a tracker."""
    pytest.importorskip("tornado")
    tracker, port = free_port(), free_port()
    start("tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", tracker, "--port-end", tracker + 1)
    wait_for(tracker)
    server(start, board, port, "--tracker", f"127.0.0.1:{tracker}", "--key", "board")
    (tmp_path / "other").mkdir()
    other = compiled(board, tmp_path / "other" / doubling.name, relax.op.multiply)
    jobs = [
        job("good", doubling, answer(tmp_path / "right.npz", 2.0)),
        # Of the same name, and it computes something else.
        job("other", other, answer(tmp_path / "square.npz", 1.0)),
        job("wrong", doubling, answer(tmp_path / "wrong.npz", 3.0)),
        job("nowhere", tmp_path / "nowhere.so"),
        job("hang", library(board, tmp_path, "hang", "sleep(600);")),
        job("last", doubling),
    ]
    begin = time.monotonic()
    there = get_target(f"{board.target.name}@rpc:127.0.0.1:{tracker}/board")
    results = list(find_runner(there, board.deadline_s).run([jobs, jobs]))
    assert time.monotonic() - begin < 45 * board.deadline_s
    assert [result.key for result in results] == [
        "good",
        "other",
        "wrong",
        "nowhere",
        "hang",
        "last",
        "good",
        "other",
        "last",
    ]
    reasons = {result.key: result.reason for result in results if isinstance(result, Failure)}
    assert set(reasons) == {"wrong", "nowhere", "hang"}
    assert "its output is off by 1" in reasons["wrong"]
    first = results[0]
    assert isinstance(first, Timing)
    assert first.answer == Answer(0.0, True)
    # It hangs while it is loaded, which ends with its session.
    assert "session has expired" in reasons["hang"]
    assert all(len(result.samples_s) == 3 for result in results if isinstance(result, Timing))


@pytest.mark.slow
def test_a_server_that_is_killed_and_started_again(start: Start, board: Board, doubling: Path) -> None:
    port = free_port()
    first = server(start, board, port)
    runner = RpcRunner(board.target, f"127.0.0.1:{port}", 60.0)
    results = iter(runner.run([[job(key, doubling) for key in "abc"]]))
    assert isinstance(next(results), Timing)
    kill(first)
    server(start, board, port)
    # The one that met the dead server has failed, with a reason; the next has a new session.
    failed, last = next(results), next(results)
    assert isinstance(failed, Failure)
    assert failed.reason
    assert isinstance(last, Timing)


@pytest.mark.slow
@pytest.mark.parametrize("board", [HERE], indirect=True, ids=["here"])  # an emulated session's end is no exception
def test_a_crash_is_a_failure_and_ends_the_server_of_tvm(
    start: Start, board: Board, doubling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session's exit status is an exception in the server's loop; see `_serving` in tvm/rpc/server.py."""
    port = free_port()
    server(start, board, port)
    runner = RpcRunner(board.target, f"127.0.0.1:{port}", 5.0)
    monkeypatch.setattr(runner, "start_deadline_s", 10.0)
    results = iter(runner.run([[job("crash", library(board, tmp_path, "crash", "abort();")), job("next", doubling)]]))
    crashed = next(results)
    assert isinstance(crashed, Failure)
    with pytest.raises(RunnerError, match="answers no more after a candidate that crashes; what was measured is kept"):
        next(results)


@pytest.mark.parametrize("board", [HERE], indirect=True, ids=["here"])
def test_nobody_there_is_told(monkeypatch: pytest.MonkeyPatch, doubling: Path) -> None:
    runner = RpcRunner(HERE.target, f"127.0.0.1:{free_port()}", 5.0)
    monkeypatch.setattr(runner, "start_deadline_s", 6.0)
    with pytest.raises(RunnerError, match=r"Nothing answers at rpc:127\.0\.0\.1:\d+: .* tvm\.exec\.rpc_server"):
        list(runner.run([[job("a", doubling)]]))


def test_other_machines_need_a_tunnel_or_a_word() -> None:
    for host in ("10.0.0.7", "board", "0.0.0.0"):
        with pytest.raises(RunnerError, match=rf"neither passwords nor encryption, and {host} .*\(`ssh -L 9090:"):
            RpcRunner(HERE.target, f"{host}:9090", 5.0, environ={})
        RpcRunner(HERE.target, f"{host}:9090", 5.0, environ={"NETLATHE_OPEN_RPC": "1"})
    for host in ("127.0.0.1", "localhost"):
        RpcRunner(HERE.target, f"{host}:9090", 5.0, environ={})
    for address in ("", "board", "board:x", ":9090"):
        with pytest.raises(TargetError, match="write rpc:HOST:PORT"):
            RpcRunner(HERE.target, address, 5.0)
