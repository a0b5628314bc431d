"""Counting what a program for another machine executes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from targets.emulated import EmulatedRunner
from targets.registry import get_target
from targets.runner import Answer, Failure, Job, RunnerError, Timing
from targets.toolchain import ToolchainError, find_toolchain
from targets.unit import INSTRUCTION_S

BOARD = get_target("arm64-cortex-a76")
# Speaks like netbench. A call is a loop of four instructions: a load and a store for each of so many cache lines.
PROGRAM = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static char memory[1 << 20] __attribute__((aligned(64)));
static void call(unsigned long lines) {
  char *at = memory;
  __asm__ volatile("1: ldr q0, [%0]\\n str x3, [%0], 64\\n subs %1, %1, 1\\n b.ne 1b"
                   : "+r"(at), "+r"(lines) : : "v0", "cc", "memory");
}
int main(int count, char **words) {
  unsigned long calls = 0;
  for (int i = 1; i < count; i++)
    if (!strncmp(words[i], "--warmup_runs=", 14)) calls += strtoul(words[i] + 14, NULL, 10);
  BEGIN;
  for (unsigned long i = 0; i < calls + 1; i++) call(LINES);
  printf("{\\"max_abs_error\\": 2e-7, \\"same_top1\\": true}\\n");
  return 0;
}
"""


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Job]:
    """Makes a job by its key: so many cache lines for each call, and what it does first."""
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("qemu-aarch64 is not installed")
    try:
        toolchain = find_toolchain(BOARD)
    except ToolchainError as error:
        pytest.skip(str(error))

    def make(key: str, lines: int = 1000, begin: str = "") -> Job:
        source = tmp_path / f"{key}.c"
        source.write_text(PROGRAM.replace("BEGIN", begin).replace("LINES", str(lines)))
        toolchain.compile([source])
        toolchain.link_program([source.with_suffix(".o")], source.with_suffix(".netbench"))
        return Job(key=key, module=source.with_suffix(".netbench"))

    return make


def test_instructions_loads_stores_and_misses_of_one_call(program: Callable[..., Job]) -> None:
    """64 KiB of level 1 and 256 of level 2: 62 KB stay in the first, 128 in the second, and a megabyte in none."""
    jobs = [program("near", 1000), program("further", 2000), program("far", 16000)]
    near, further, far = EmulatedRunner(BOARD, caches=True).run([jobs])
    for found, lines in ((near, 1000), (further, 2000), (far, 16000)):
        assert isinstance(found, Timing)
        # Calling it is a few more.
        assert 4 * lines <= found.counts["instructions"] < 4 * lines + 20
        assert found.samples_s == (found.counts["instructions"] * INSTRUCTION_S,)
        # Whole vectors are one load each, whatever the emulator splits them into.
        assert lines <= found.counts["loads"] < lines + 5
        assert lines <= found.counts["stores"] < lines + 5
        assert found.answer == Answer(2e-7, same_top1=True)
    misses = [(found.counts["l1_misses"], found.counts["l2_misses"]) for found in (near, further, far)]
    assert misses[0][0] < 50
    assert (misses[1][0] >= 1900, misses[1][1] < 50) == (True, True)
    assert (misses[2][0] >= 15900, misses[2][1] >= 15900) == (True, True)


def test_a_job_is_run_once_and_the_same_each_time(program: Callable[..., Job]) -> None:
    jobs = [program("one"), program("other", 500)]
    runner = EmulatedRunner(BOARD)
    assert runner.exact
    found = [*runner.run([jobs, jobs[::-1]])]
    assert [result.key for result in found] == ["one", "other", "other", "one"]
    assert found[0] == found[3]
    assert [*runner.run([jobs])] == found[:2]
    assert isinstance(found[0], Timing)
    assert list(found[0].counts) == ["instructions"]


def test_what_crashes_hangs_or_says_nothing_fails_alone(
    program: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("targets.emulated.SLOWER", 1.0)
    jobs = [
        program("wrong", begin='fputs("netbench: the output is off", stderr); return 1'),
        program("crash", begin="abort()"),
        program("mute", begin="return 0"),
        program("hang", begin="sleep(60)"),
        program("right"),
    ]
    *failures, right = EmulatedRunner(BOARD, deadline_s=5.0).run([jobs, jobs[:4]])
    assert [failure.key for failure in failures] == ["wrong", "crash", "mute", "hang"]
    assert isinstance(right, Timing)
    for failure, reason in zip(failures, ("the output is off", "failed", "without counts", "did not end within 5 s")):
        assert isinstance(failure, Failure)
        assert reason in failure.reason


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    missing = replace(BOARD, emulator=("no-such-emulator",))
    with pytest.raises(
        RunnerError, match=r"--runner adb, .* no-such-emulator is not installed \(`apt install qemu-user"
    ):
        EmulatedRunner(missing)
    plain = tmp_path / "qemu"
    plain.write_text("#!/bin/sh\necho usage\n")
    plain.chmod(0o755)
    with pytest.raises(RunnerError, match=r"qemu was built without plugins, .* its --help lists -plugin"):
        EmulatedRunner(replace(BOARD, emulator=(str(plain),)))
    plain = tmp_path / "qemu-with"
    plain.write_text("#!/bin/sh\necho -plugin\n")
    plain.chmod(0o755)
    with pytest.raises(RunnerError, match=r"what threads do while they wait would count\. Ask for one thread"):
        EmulatedRunner(replace(BOARD, emulator=(str(plain),)).with_threads(2))
