"""Plugins: many run in one process, and what one of them does to it concerns no other."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from targets.bundle import BundleAwayError, BundleRunner
from targets.gpus import GPUS
from targets.plugins import PluginLoader
from targets.remote import RemoteRunner
from targets.runner import PLUGIN, Answer, Failure, Job, RunnerError, Timing
from targets.shell import RemoteShell
from targets.toolchain import find_toolchain

pytestmark = pytest.mark.compiles
H100 = GPUS[-1]
LOADER = PluginLoader(H100)
SOURCE = """
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((visibility("default"))) int netlathe_bench(int count, char **words) {
  FILE *log = fopen("LOG", "a");
  fprintf(log, "NAME %d %s\\n", (int)getpid(), words[count - 1]);
  fclose(log);
  alarm(1);
  BODY
  printf("{\\"samples_s\\": [0.001, 0.002], \\"max_abs_error\\": 1e-6, \\"same_top1\\": true}\\n");
  return 0;
}
"""
TIMES, ANSWER = (0.001, 0.002), Answer(1e-6, True)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def job(tmp_path: Path, log: Path) -> Callable[..., Job]:
    """A plugin of a name that does something first."""

    def make(name: str, body: str = "") -> Job:
        source = tmp_path / f"{name}.c"
        source.write_text(SOURCE.replace("LOG", str(log)).replace("NAME", name).replace("BODY", body))
        toolchain = find_toolchain(H100)
        toolchain.compile([source])
        toolchain(str(source.with_suffix(PLUGIN)), [str(source.with_suffix(".o"))])
        return Job(key=name, module=source.with_suffix(PLUGIN), repeats=2)

    return make


@pytest.fixture
def runner(tmp_path: Path) -> RemoteRunner:
    return RemoteRunner(RemoteShell(("sh", "-c")), str(tmp_path / "there"), 1, 5.0, loader=LOADER, form="plugin")


def processes(log: Path) -> list[tuple[str, str]]:
    """Whose turns there were, and in which process."""
    return [(line.split()[0], line.split()[1]) for line in log.read_text().splitlines()]


def test_a_pass_is_one_process_and_the_next_another(
    runner: RemoteRunner, job: Callable[..., Job], log: Path, tmp_path: Path
) -> None:
    a, b = job("a"), job("b")
    assert list(runner.run([[a, b, a], [b, a]])) == [Timing(key, TIMES, ANSWER) for key in "ababa"]
    turns = processes(log)
    assert [name for name, _ in turns] == [*"ababa"]
    assert [len({process for _, process in part}) for part in (turns[:3], turns[3:], turns)] == [1, 1, 2]
    assert "--cpu_mask=" in log.read_text()
    assert list((tmp_path / "there").iterdir()) == []


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("abort();", "died of SIGABRT"),
        ("for (;;) pause();", "took longer than 5 s"),
        ('return fprintf(stderr, "netbench: the output is off by 3.\\n"), 1;', "the output is off by 3."),
        ("return 7;", "ended with exit code 7"),
        ('printf("netbench: half a reason"); fflush(stdout); _exit(3);', "half a reason"),
        ("exit(0);", "answered what are no 2 times"),
        ('printf("{\\"samples_s\\": [0.001]}\\n"); return 0;', "answered what are no 2 times"),
    ],
)
def test_what_fails_takes_no_other_with_it(
    runner: RemoteRunner, job: Callable[..., Job], body: str, reason: str
) -> None:
    a, bad, b = job("a"), job("bad", body), job("b")
    found = list(runner.run([[a, bad, b], [b, bad, a]]))
    assert [result.key for result in found] == ["a", "bad", "b", "b", "a"]
    (failure,) = (result for result in found if isinstance(result, Failure))
    assert reason in failure.reason


def test_what_is_no_plugin_says_so(runner: RemoteRunner, job: Callable[..., Job]) -> None:
    a, torn = job("a"), job("torn")
    torn.module.write_bytes(torn.module.read_bytes()[:100])
    found = list(runner.run([[torn, a]]))
    assert isinstance(found[0], Failure)
    assert "programs/" in found[0].reason
    assert found[1] == Timing("a", TIMES, ANSWER)


def test_a_bundle_of_plugins_is_killed_and_goes_on(job: Callable[..., Job], log: Path, tmp_path: Path) -> None:
    """By the plugin itself, which kills the script and its own process."""
    a, b = job("a"), job("b")
    killer = job(
        "killer",
        f'if (access("{tmp_path}/once", F_OK)) {{ fclose(fopen("{tmp_path}/once", "w")); '
        "kill(getppid(), SIGKILL); raise(SIGKILL); }",
    )
    runner = BundleRunner(tmp_path / "bundle", 1, 5.0, loader=LOADER, form="plugin")
    passes = [[a, killer, b], [b, a, killer]]
    with pytest.raises(BundleAwayError):
        list(runner.run(passes))
    (folder,) = (path for path in (tmp_path / "bundle").iterdir() if path.is_dir())
    codes = [subprocess.run(["sh", folder / "measure.sh"], capture_output=True, check=False).returncode for _ in "12"]
    assert codes == [-9, 0]
    assert [timing.key for timing in runner.run(passes) if isinstance(timing, Timing)] == [
        "a", "killer", "b", "b", "a", "killer",
    ]  # fmt: skip
    assert [name for name, _ in processes(log)] == ["a", "killer", "killer", "b", "b", "a", "killer"]


def test_a_bundle_of_plugins_that_is_interrupted_computes_no_more(
    job: Callable[..., Job], log: Path, tmp_path: Path
) -> None:
    stuck = job("stuck", "alarm(0); kill(getppid(), SIGINT); for (;;) pause();")
    runner = BundleRunner(tmp_path / "bundle", 1, 5.0, loader=LOADER, form="plugin")
    with pytest.raises(BundleAwayError):
        list(runner.run([[job("a"), stuck]]))
    (folder,) = (path for path in (tmp_path / "bundle").iterdir() if path.is_dir())
    interruptible = ["env", "--default-signal=INT", "sh", folder / "measure.sh"]
    assert subprocess.run(interruptible, capture_output=True, check=False, timeout=60).returncode == 130
    name, process = processes(log)[-1]
    assert name == "stuck"
    # Until whoever adopted it has buried it.
    state = Path("/proc", process, "stat")
    deadline = time.monotonic() + 10
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


def test_without_a_loader_that_starts_the_machine_cannot_measure(
    runner: RemoteRunner, job: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No candidate is to blame for it."""
    monkeypatch.setenv("NETLATHE_LAUNCHER", "false")
    with pytest.raises(RunnerError, match="ended before the first of them with exit code 1"):
        list(runner.run([[job("a"), job("b")]]))


def test_a_loader_that_did_not_arrive_whole_is_refused(job: Callable[..., Job], log: Path, tmp_path: Path) -> None:
    runner = BundleRunner(tmp_path / "bundle", 1, 5.0, loader=LOADER, form="plugin")
    with pytest.raises(BundleAwayError):
        list(runner.run([[job("a")]]))
    (folder,) = (path for path in (tmp_path / "bundle").iterdir() if path.is_dir())
    (line,) = (line for line in (folder / "settings").read_text().splitlines() if line.startswith("loader="))
    loader = folder / "programs" / line.removeprefix("loader=")
    loader.write_bytes(loader.read_bytes()[:100])
    done = subprocess.run(["sh", folder / "measure.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "did not arrive whole" in done.stderr
    assert (folder / "results").read_text() == ""
    assert not log.exists()


def test_a_loader_that_cannot_be_compiled_is_an_error(
    job: Callable[..., Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = PluginLoader(replace(H100, toolchain="host"))
    runner = RemoteRunner(RemoteShell(("sh", "-c")), str(tmp_path / "there"), 1, loader=other)
    a = job("a")
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    with pytest.raises(RunnerError, match="cannot be compiled"):
        list(runner.run([[a]]))
