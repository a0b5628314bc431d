"""EmulatedRunner: counts what programs for another machine execute under qemu. It measures no time."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from targets.emulator import ProgramError, launcher, run_program
from targets.host import available_cpus
from targets.runner import Answer, Failure, Form, Job, RunnerError, Timing
from targets.target import Target
from targets.toolchain import ToolchainError, find_toolchain
from targets.unit import INSTRUCTION_S

PLUGIN = Path(__file__).with_name("qemu_count.c")
# Emulated code may take so many times as long as a deadline is meant for.
SLOWER = 20.0
# The first version of qemu whose plugins have the second version of their interface.
_SECOND_API = 9
_COUNTS, _ANSWER = TypeAdapter(dict[str, int]), TypeAdapter(Answer)


@lru_cache
def _takes_plugins(emulator: str) -> bool:
    return "-plugin" in subprocess.run([emulator, "--help"], capture_output=True, text=True, check=False).stdout


class EmulatedRunner:
    """Counts the instructions of one call of each program, on all cores at once: a count does not care who runs beside.

    Its seconds are those of an emulator's clock on which each instruction takes a nanosecond (`targets.unit`). A count
    is always the same, so each job is run once and has one sample, however many turns it has.

    caches: loads, stores and cache misses are counted too, which takes some times as long.

    Raises:
        RunnerError: the emulator is missing or has no plugins, or several threads are asked for, whose waiting would
            count.
    """

    form: Form = "program"
    at_once = True
    exact = True

    def __init__(self, target: Target, deadline_s: float = 30.0, caches: bool = False) -> None:
        before = launcher(target)
        if not before:
            raise RunnerError(
                f"{target.name} is not this machine. Say how it can be reached: --runner adb, --runner ssh:USER@HOST, "
                "or --runner bundle:FOLDER to carry a folder there. Without it an emulator would count what programs "
                f"execute, and {target.emulator[0]} is not installed (`apt install qemu-user`)."
            )
        if not _takes_plugins(before[0]):
            raise RunnerError(
                f"{shutil.which(before[0])} was built without plugins, as static ones are (Debian 13's), and cannot "
                "count instructions. Put one that has them on the PATH first: its --help lists -plugin. Or say how the "
                "machine can be reached: --runner adb, --runner ssh:USER@HOST."
            )
        if target.threads > 1:
            raise RunnerError(
                f"{target.name} is emulated, where what threads do while they wait would count. Ask for one thread, or "
                "say how it can be measured: --runner adb, --runner ssh:USER@HOST."
            )
        self._before, self._target = before, target
        self._deadline_s, self._caches = SLOWER * deadline_s, caches

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        """See `Runner.run`.

        Raises:
            RunnerError: qemu's plugin cannot be compiled.
        """
        turns = [job for jobs in passes for job in jobs]
        distinct = {job.key: job for job in turns}
        with TemporaryDirectory() as name, ThreadPoolExecutor(len(available_cpus())) as pool:
            plugin = self.plugin(Path(name))
            running = {key: pool.submit(self._counted, job, plugin) for key, job in distinct.items()}
            failed = set[str]()
            try:
                for job in turns:
                    if job.key in failed:
                        continue
                    found = running[job.key].result()
                    if isinstance(found, Failure):
                        failed.add(job.key)
                    yield found
            finally:
                pool.shutdown(cancel_futures=True)

    def plugin(self, folder: Path) -> Path:
        """What counts, compiled in a folder for the emulator that is installed.

        Raises:
            RunnerError: it cannot be compiled.
        """
        said = subprocess.run([self._before[0], "--version"], capture_output=True, text=True, check=False).stdout
        major = re.search(r"version (\d+)", said)
        version = 2 if major and int(major[1]) >= _SECOND_API else 1
        source, plugin = folder / PLUGIN.name, folder / "qemu_count.so"
        source.write_text(f"#define VERSION {version}\n{PLUGIN.read_text()}")
        try:
            toolchain = find_toolchain(replace(self._target, toolchain="host"))
            toolchain.compile([source])
            toolchain(str(plugin), [str(source.with_suffix(".o"))])
        except ToolchainError as error:
            raise RunnerError(f"What counts instructions cannot be compiled. {error}") from error
        return plugin

    def _counted(self, job: Job, plugin: Path) -> Timing | Failure:
        """One call's counts: those of a program less those of the same one with a call less."""
        try:
            less, _ = self._executed(job, 0, plugin)
            more, answer = self._executed(job, 1, plugin)
        except ProgramError as error:
            return Failure(job.key, str(error).removesuffix("."))
        counts = {what: more[what] - less[what] for what in more}
        return Timing(job.key, (counts["instructions"] * INSTRUCTION_S,), answer, counts)

    def _executed(self, job: Job, more_calls: int, plugin: Path) -> tuple[dict[str, int], Answer]:
        """All that a program executes, from its start to its end, and what it found of its own output."""
        with TemporaryDirectory(dir=plugin.parent) as name:
            out = Path(name) / "counts.json"
            options = [str(plugin), f"out={out}"]
            if self._caches:
                options += [f"l1={self._target.l1d_bytes}", f"l2={self._target.l2_bytes}"]
            printed = run_program(
                job.module,
                "--num_runs=0",
                f"--warmup_runs={more_calls}",
                "--json",
                before=(*self._before, "-plugin", ",".join(options)),
                deadline_s=self._deadline_s,
            )
            try:
                return _COUNTS.validate_json(out.read_bytes()), _ANSWER.validate_json(printed)
            except (OSError, ValidationError) as error:
                raise ProgramError(f"{job.module.name} ended without counts: {printed[:80]}") from error
