"""The local runner with real child processes: what is timed, and what happens to the rest when one candidate breaks."""

import importlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tvm
from tvm import relax

from targets.child import Child
from targets.host import detect_host
from targets.local import LocalRunner
from targets.registry import get_target
from targets.runner import Failure, Job, RunnerError, Timing
from targets.toolchain import find_toolchain

TARGET = get_target("x86")
pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def doubling(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled module that doubles a [4, 8] tensor."""
    return compiled(tmp_path_factory.mktemp("modules") / "doubling.so", lambda x: relax.op.add(x, x))


def compiled(path: Path, body: Callable[[relax.Var], relax.Expr]) -> Path:
    """A module whose `main` is a function of a [4, 8] tensor."""
    builder, x = relax.BlockBuilder(), relax.Var("x", relax.TensorType((4, 8), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(body(x)))
    executable = tvm.compile(builder.get(), tvm.target.Target(TARGET.tvm_attributes()))
    executable.export_library(str(path), fcompile=find_toolchain(TARGET))
    return path


@pytest.fixture
def local_child() -> ModuleType:
    """The child's code, to be called in this process, where its import must leave torch as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", None)
        return importlib.import_module("targets.local_child")


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[str]]:
    """The processes that runners start."""
    started: list[subprocess.Popen[str]] = []
    popen = subprocess.Popen

    def start(*words: Any, **settings: Any) -> subprocess.Popen[str]:
        started.append(popen(*words, **settings))
        return started[-1]

    monkeypatch.setattr("targets.child.subprocess.Popen", start)
    return started


def job(key: str, module: Path, **settings: int) -> Job:
    return Job(key=key, module=module, input_shapes=((4, 8),), **settings)


def library(folder: Path, name: str, on_load: str) -> Path:
    """A shared library that runs C code when it is loaded."""
    source, path = folder / f"{name}.c", folder / f"{name}.so"
    headers = "".join(f"#include <{name}.h>\n" for name in ("stdio", "stdlib", "unistd"))
    source.write_text(f"{headers}__attribute__((constructor)) static void go(void) {{ {on_load} }}")
    find_toolchain(TARGET)(str(path), [str(source)])
    return path


def test_timings_are_raw_and_as_many_as_asked(doubling: Path) -> None:
    (result,) = LocalRunner(TARGET).run([[job("a", doubling, repeats=7, warmup=2)]])
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
    results = {result.key: result for result in LocalRunner(TARGET, deadline_s=5.0).run([jobs])}
    assert time.monotonic() - start < 60
    assert list(results) == [j.key for j in jobs]
    assert [key for key, result in results.items() if isinstance(result, Timing)] == ["good 1", "good 2", "good 3"]
    reasons = {key: result.reason for key, result in results.items() if isinstance(result, Failure)}
    assert "died of SIGABRT" in reasons["crash"]
    assert reasons["hang"] == "took longer than 5 s"
    assert reasons["no such function"]
    assert "nowhere.so" in reasons["not a library"]


def answer(path: Path, output: np.ndarray) -> Path:
    np.savez(path, input=np.ones((4, 8), np.float32), output=output, tolerance=1e-3)
    return path


def test_a_module_is_timed_only_if_it_answers_what_it_should(doubling: Path, tmp_path: Path) -> None:
    right = np.full((4, 8), 2.0, np.float32)
    nearly, wrong = right.copy(), right.copy()
    nearly[3, 7] += 1e-3
    wrong[3, 7] = 2.1
    answers = {"right": right, "nearly": nearly, "wrong": wrong, "other shape": right[:3], "no number": right * np.nan}
    jobs = [
        Job(key=key, module=doubling, input_shapes=((4, 8),), repeats=3, answer=answer(tmp_path / f"{key}.npz", output))
        for key, output in answers.items()
    ]
    (results, again) = ({}, {})  # type: dict[str, Timing | Failure], dict[str, Timing | Failure]
    for result in LocalRunner(TARGET).run([jobs, jobs]):
        (again if result.key in results else results)[result.key] = result
    assert set(again) == {"right", "nearly"}
    assert {key for key, result in results.items() if isinstance(result, Timing)} == {"right", "nearly"}
    failure = results["wrong"]
    assert isinstance(failure, Failure)
    assert failure.reason.endswith("WrongAnswerError: its output is off by 0.1, and rounding explains 0.0021")


@pytest.mark.parametrize("samples", [[1e-3], [1e-3, 0.0], [1e-3, -1.0], [1e-3, math.nan], [1e-3, 40.0]])
def test_a_child_that_answers_with_what_are_no_times_fails(
    doubling: Path, monkeypatch: pytest.MonkeyPatch, samples: list[float]
) -> None:
    receive = Child.receive

    def lying(child: Child, deadline_s: float) -> dict[str, Any]:
        reply = receive(child, deadline_s)
        return {"samples_s": samples} if "samples_s" in reply else reply

    monkeypatch.setattr(Child, "receive", lying)
    (result,) = LocalRunner(TARGET).run([[job("doubling", doubling, repeats=2)]])
    assert isinstance(result, Failure)
    assert result.reason.startswith("answered what are no 2 times: [0.001")


def test_rounds_take_turns_and_a_failure_has_no_second_turn(doubling: Path, tmp_path: Path) -> None:
    jobs = [
        job("a", doubling, repeats=3),
        job("crash", library(tmp_path, "crash", "abort();")),
        job("b", doubling, repeats=1),
    ]
    results = list(LocalRunner(TARGET).run([jobs, jobs]))
    assert [result.key for result in results] == ["a", "crash", "b", "a", "b"]
    assert [len(result.samples_s) for result in results if isinstance(result, Timing)] == [3, 1, 3, 1]


def test_every_pass_has_a_process_of_its_own_and_answers_are_checked_once(
    doubling: Path, tmp_path: Path, children: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    send = Child.send

    def kept(child: Child, message: Mapping[str, object]) -> None:
        asked.append(message["answer"] is not None)
        send(child, message)

    monkeypatch.setattr(Child, "send", kept)
    right = answer(tmp_path / "right.npz", np.full((4, 8), 2.0, np.float32))
    checked = Job(key="a", module=doubling, input_shapes=((4, 8),), repeats=1, answer=right)
    assert len(list(LocalRunner(TARGET).run([[checked, checked], [checked]]))) == 3
    assert (asked, len(children)) == ([True, False, False], 2)


def test_a_child_killed_between_two_jobs_fails_the_next_alone(
    doubling: Path, children: list[subprocess.Popen[str]]
) -> None:
    results = LocalRunner(TARGET).run([[job("a", doubling), job("b", doubling), job("c", doubling)]])
    assert isinstance(next(results), Timing)
    children[0].kill()
    children[0].wait()
    assert next(results) == Failure("b", "died of SIGKILL")
    assert isinstance(next(results), Timing)


def test_the_evictor_touches_all_its_buffer_on_each_cpu(
    local_child: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers: list[np.ndarray] = []
    zeros = np.zeros
    monkeypatch.setattr(local_child.np, "zeros", lambda *a, **k: buffers.append(zeros(*a, **k)) or buffers[0])
    seen: list[tuple[set[int], float, float]] = []
    monkeypatch.setattr(
        local_child.os, "sched_setaffinity", lambda pid, cpus: seen.append((cpus, buffers[0].min(), buffers[0].max()))
    )
    evict = local_child.evictor({0, 1}, 4096, [])
    evict()
    evict()
    assert [buffer.nbytes for buffer in buffers] == [4096]
    # Each CPU once for the buffer and once for its share of the inputs, then all.
    assert seen[:5] == [({0}, 0, 0), ({1}, 1, 1), ({0}, 2, 2), ({1}, 2, 2), ({0, 1}, 2, 2)]
    assert seen[5:] == [({0}, 2, 2), ({1}, 3, 3), ({0}, 4, 4), ({1}, 4, 4), ({0, 1}, 4, 4)]


def test_the_evictor_touches_the_inputs_last_each_cpu_its_share(
    local_child: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[object] = []
    monkeypatch.setattr(local_child.os, "sched_setaffinity", lambda pid, cpus: events.append(cpus))
    monkeypatch.setattr(local_child.np, "add", lambda *a, **k: events.append("buffer"))
    multiply = np.multiply
    monkeypatch.setattr(
        local_child.np, "multiply", lambda array, *a, **k: events.append(array.tolist()) or multiply(array, *a, **k)
    )
    image = np.arange(5, dtype=np.float32)
    image_before = image.copy()
    local_child.evictor({0, 1}, 4096, [image])()
    assert events == [{0}, "buffer", {1}, "buffer", {0}, [0, 1, 2], {1}, [3, 4], {0, 1}]
    np.testing.assert_array_equal(image, image_before)


@pytest.mark.parametrize("evict_bytes", [0, 4096])
def test_each_timed_call_is_a_call_of_main_with_an_eviction_before(
    local_child: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, evict_bytes: int
) -> None:
    events: list[object] = []

    def evictor(cpus: set[int], size: int, inputs: Sequence[np.ndarray]) -> Callable[..., None]:
        inputs[0][:] = 7.0
        return lambda *_: events.append(("evict", cpus, size))

    def main(x: tvm.runtime.Tensor) -> tvm.runtime.Tensor:
        # What is touched is what the module reads.
        events.append("main" if (x.numpy() == 7.0).all() == (evict_bytes > 0) else "other input")
        return x

    monkeypatch.setattr(local_child, "evictor", evictor)
    tvm.register_global_func("netlathe.test_main", main, override=True)
    call = relax.ExternFunc("netlathe.test_main")
    module = compiled(tmp_path / "main.so", lambda x: relax.Call(call, [x], ty_args=[x.ty]))
    message = {
        "module": str(module),
        "input_shapes": [[4, 8]],
        "repeats": 3,
        "warmup": 2,
        "answer": None,
    }
    message["evict_bytes"] = evict_bytes
    assert len(local_child.measure(message, {0})["samples_s"]) == 3
    evictions = [("evict", {0}, evict_bytes)] if evict_bytes else []
    # Before it counts, TVM calls once more.
    assert events == ["main", *[*evictions, "main"] * (2 + 3)]


def test_a_child_that_cannot_start_is_nobody_s_fault(monkeypatch: pytest.MonkeyPatch, doubling: Path) -> None:
    monkeypatch.setattr("targets.child.sys.executable", "/bin/false")
    with pytest.raises(RunnerError, match="did not start"):
        list(LocalRunner(TARGET).run([[job("a", doubling)]]))


def test_nothing_to_run() -> None:
    assert list(LocalRunner(TARGET).run([])) == []


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
    results = list(LocalRunner(TARGET).run([[job("noisy", noisy), job("good", doubling)]]))
    assert isinstance(results[0], Failure)
    assert isinstance(results[1], Timing)


def test_stopping_early_ends_the_child(doubling: Path, children: list[subprocess.Popen[str]]) -> None:
    results = LocalRunner(TARGET).run([[job("a", doubling), job("b", doubling)]])
    next(results)
    assert children[0].poll() is None
    results.close()  # type: ignore[attr-defined]
    assert children[0].returncode == -signal.SIGKILL
