"""The local runner with real child processes: what is timed, and what happens to the rest when one candidate breaks."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from targets.host import detect_host
from targets.local import LocalRunner
from targets.runner import Failure, Job, RunnerError, Timing
from targets.target import get_target

TARGET = get_target("x86")
pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled module that doubles a [4, 8] tensor."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((4, 8), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            y = builder.emit_output(relax.op.add(x, x))
        builder.emit_func_output(y)
    path = tmp_path_factory.mktemp("modules") / "doubling.so"
    tvm.compile(builder.get(), tvm.target.Target(TARGET.tvm_attributes())).export_library(str(path))
    return path


def job(key: str, module: Path, **settings: int) -> Job:
    return Job(key=key, module=module, input_shapes=((4, 8),), **settings)


def library(folder: Path, name: str, on_load: str) -> Path:
    """A shared library that runs C code when it is loaded."""
    source, path = folder / f"{name}.c", folder / f"{name}.so"
    headers = "".join(f"#include <{name}.h>\n" for name in ("stdio", "stdlib", "unistd"))
    source.write_text(f"{headers}__attribute__((constructor)) static void go(void) {{ {on_load} }}")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", path, source], check=True)
    return path


def test_timings_are_raw_and_as_many_as_asked(doubling: Path) -> None:
    (result,) = LocalRunner(TARGET).run([job("a", doubling, repeats=7, warmup=2)])
    assert isinstance(result, Timing)
    assert len(result.samples_s) == 7
    assert all(0 < s < 1 for s in result.samples_s)


def test_a_crash_a_hang_and_an_error_fail_alone(doubling: Path, tmp_path: Path) -> None:
    jobs = [
        job("good 1", doubling),
        job("crash", library(tmp_path, "crash", "abort();")),
        job("good 2", doubling),
        job("hang", library(tmp_path, "hang", "sleep(60);")),
        job("no such function", library(tmp_path, "empty", "")),
        job("not a library", tmp_path / "nowhere.so"),
        job("good 3", doubling),
    ]
    start = time.monotonic()
    results = {result.key: result for result in LocalRunner(TARGET, deadline_s=5.0).run(jobs)}
    assert time.monotonic() - start < 60
    assert list(results) == [j.key for j in jobs]
    assert [key for key, result in results.items() if isinstance(result, Timing)] == ["good 1", "good 2", "good 3"]
    reasons = {key: result.reason for key, result in results.items() if isinstance(result, Failure)}
    assert "died of SIGABRT" in reasons["crash"]
    assert reasons["hang"] == "took longer than 5 s"
    assert reasons["no such function"]
    assert "nowhere.so" in reasons["not a library"]


def test_rounds_take_turns_and_a_failure_has_no_second_turn(doubling: Path, tmp_path: Path) -> None:
    jobs = [job("a", doubling, repeats=3), job("crash", library(tmp_path, "crash", "abort();")), job("b", doubling)]
    results = list(LocalRunner(TARGET).run(jobs, rounds=2))
    assert [result.key for result in results] == ["crash", "a", "b"]
    assert isinstance(results[1], Timing)
    assert len(results[1].samples_s) == 2 * 3


def test_memory_is_evicted_before_every_call(doubling: Path) -> None:
    """With 64 MiB touched before each call, the whole takes at least that long; the calls themselves do not."""
    repeats, evict_bytes = 5, 64 << 20
    start = time.monotonic()
    (result,) = LocalRunner(TARGET).run([job("a", doubling, repeats=repeats, warmup=0, evict_bytes=evict_bytes)])
    elapsed = time.monotonic() - start
    assert isinstance(result, Timing)
    assert sum(result.samples_s) < elapsed / 2


def test_a_child_that_cannot_start_is_nobody_s_fault(monkeypatch: pytest.MonkeyPatch, doubling: Path) -> None:
    monkeypatch.setattr("targets.local.sys.executable", "/bin/false")
    with pytest.raises(RunnerError, match="did not start"):
        list(LocalRunner(TARGET).run([job("a", doubling)]))


def test_nothing_to_run() -> None:
    assert list(LocalRunner(TARGET).run([])) == []


def test_the_module_really_ran(doubling: Path) -> None:
    """The same library, in this process: what the runner times is the compiled function."""
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(doubling)), tvm.cpu())
    x = np.arange(32, dtype=np.float32).reshape(4, 8)
    np.testing.assert_array_equal(machine["main"](tvm.runtime.tensor(x)).numpy(), 2 * x)


def test_a_machine_without_the_vectors_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = replace(detect_host(), flags=frozenset({"avx2", "fma"}))
    monkeypatch.setattr("targets.local.detect_host", lambda: narrow)
    with pytest.raises(RunnerError, match="cannot run on this machine: it needs 512-bit vectors"):
        LocalRunner(get_target("x86-64-v4"))


def test_more_threads_than_cores_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("targets.local.available_cpus", lambda: (0,))
    with pytest.raises(RunnerError, match="may use 1 physical cores"):
        LocalRunner(replace(TARGET, cores=2, threads=2))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="TVM runs no more threads than there are cores")
def test_the_child_runs_as_many_threads_as_asked() -> None:
    """Standard input ends at once, so all it says is how it was set up. Left alone, TVM takes half of the cores."""
    cpus = sorted(os.sched_getaffinity(0))[:2]
    done = subprocess.run(
        [sys.executable, "-m", "targets.local_child", *map(str, cpus)],
        env={**os.environ, "TVM_NUM_THREADS": "2"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"threads": 2}


def test_what_a_module_prints_does_not_mix_with_the_protocol(doubling: Path, tmp_path: Path) -> None:
    noisy = library(tmp_path, "noisy", 'puts("{}"); fflush(stdout);')
    results = list(LocalRunner(TARGET).run([job("noisy", noisy), job("good", doubling)]))
    assert isinstance(results[0], Failure)
    assert isinstance(results[1], Timing)


def test_stopping_early_ends_the_child(doubling: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*words: Any, **settings: Any) -> subprocess.Popen[str]:
        started.append(popen(*words, **settings))
        return started[-1]

    monkeypatch.setattr("targets.local.subprocess.Popen", start)
    results = LocalRunner(TARGET).run([job("a", doubling), job("b", doubling)])
    next(results)
    assert started[0].poll() is None
    results.close()  # type: ignore[attr-defined]
    assert started[0].returncode == -signal.SIGKILL
