"""Threads that sleep and are woken, with what Linux has for that and with what every system has."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tvm_latency.standalone.write import SOURCES

PROGRAM = Path(__file__).with_name("pool_program.c")


@pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")
@pytest.mark.parametrize("sanitizer", [[], ["-fsanitize=thread"]], ids=["plain", "sanitized"])
@pytest.mark.parametrize("system", [[], ["-U__linux__"]], ids=["linux", "any"])
def test_threads_sleep_and_every_task_is_run(system: list[str], sanitizer: list[str], tmp_path: Path) -> None:
    wrapped = ["-Wl,--wrap=syscall", "-Wl,--wrap=pthread_cond_wait"]
    sources = [PROGRAM, SOURCES / "cpu" / "pool.c", SOURCES / "system.c"]
    command = [
        "cc",
        "-std=gnu11",
        "-O1",
        f"-I{SOURCES}",
        f"-I{SOURCES / 'cpu'}",
        *system,
        *sanitizer,
        *sources,
        *wrapped,
        "-lpthread",
    ]
    subprocess.run([*command, "-o", tmp_path / "program"], check=True)
    # Addresses that the sanitizer does not expect.
    run = ["setarch", "-R"] if sanitizer else []
    done = subprocess.run([*run, tmp_path / "program"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "120 slept\n"
