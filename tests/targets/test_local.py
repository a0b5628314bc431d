"""The local runner with real child processes: what is timed, and what happens to the rest when one candidate breaks."""

import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

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
    source.write_text(
        f"#include <unistd.h>\n#include <stdlib.h>\n__attribute__((constructor)) static void go(void) {{ {on_load} }}"
    )
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
