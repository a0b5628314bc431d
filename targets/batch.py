"""A batch of programs to measure elsewhere: what goes there, and what the lines mean that come back.

`measure.sh` runs it, with a POSIX shell and nothing else; how it gets there is up to a runner.
"""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import TypeAdapter, ValidationError

from targets.plugins import PluginLoader
from targets.runner import PLUGIN, Answer, Failure, Job, Timing

SCRIPT = Path(__file__).with_name("measure.sh")
PROGRAMS = "programs"
FILES = "files.sha256"
_KILLED = 128
_SKIPPED = "-"


@dataclass(frozen=True)
class _Found:
    """What counts of a line of netbench."""

    samples_s: tuple[float, ...]
    max_abs_error: float
    same_top1: bool
    clock_mhz: int = 0


_FOUND = TypeAdapter(_Found)


class BatchError(ValueError):
    """A line is none of this batch's."""


@dataclass(frozen=True)
class Batch:
    """Turns in the order in which they are taken.

    A turn that takes longer than `deadline_s` is killed there. Plugins run in a process of `loader`, which ends after
    the turns with the numbers `ends`.
    """

    turns: tuple[Job, ...]
    threads: int
    deadline_s: float
    loader: Path | None = None
    ends: tuple[int, ...] = ()

    @cached_property
    def programs(self) -> Mapping[Path, str]:
        """The name of each program there: a digest of its content."""
        files = dict.fromkeys(job.module for job in self.turns)
        if self.loader is not None:
            files[self.loader] = None
        return {file: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

    @cached_property
    def texts(self) -> Mapping[str, str]:
        """The small files, by their names there."""
        jobs = [f"{self.programs[job.module]} {' '.join(self._options(job))}\n" for job in self.turns]
        texts = {
            SCRIPT.name: SCRIPT.read_text(),
            "settings": self._settings,
            "jobs": "".join(jobs),
        }
        digests = [f"{hashlib.sha256(text.encode()).hexdigest()}  {name}\n" for name, text in texts.items()]
        digests += [f"{name}  {PROGRAMS}/{name}\n" for name in self.programs.values()]
        return {**texts, FILES: "".join(digests)}

    def results(self, lines: Iterable[str], known: int = 0) -> Iterator[Timing | Failure | None]:
        """What came of each turn whose line comes, after so many that are known; nothing of one that was skipped.

        Raises:
            BatchError: a line is none of `measure.sh`, or not the next.
        """
        for number, line in enumerate(lines, start=known + 1):
            yield self._result(number, line.rstrip("\r\n"))

    @property
    def _settings(self) -> str:
        settings = f"threads={self.threads}\n"
        if self.loader is not None:
            settings += f'loader={self.programs[self.loader]}\nends=" {" ".join(map(str, self.ends))} "\n'
        return settings

    def _options(self, job: Job) -> list[str]:
        return [
            f"--num_runs={job.repeats}",
            f"--warmup_runs={job.warmup}",
            f"--evict_bytes={job.evict_bytes}",
            f"--num_threads={self.threads}",
            f"--deadline_secs={ceil(self.deadline_s)}",
            "--min_secs=0",
            "--max_secs=1e9",
            "--json",
            "--samples",
        ]

    def _result(self, number: int, line: str) -> Timing | Failure | None:
        said, program, status, text, *_ = [*line.split(" ", 3), "", "", "", ""]
        if number > len(self.turns) or said != str(number) or program != self.programs[self.turns[number - 1].module]:
            raise BatchError(f"Line {number} of what was measured is none of this batch: {line[:80]!r}.")
        job = self.turns[number - 1]
        if status == _SKIPPED:
            return None
        if status == "0":
            return self._timing(job, text)
        return Failure(job.key, self._reason(status, text))

    def _timing(self, job: Job, text: str) -> Timing | Failure:
        try:
            found = _FOUND.validate_json(text)
        except ValidationError:
            found = _Found((), 0.0, False)
        samples_s = found.samples_s
        if len(samples_s) != job.repeats or not all(0 < sample < self.deadline_s for sample in samples_s):
            return Failure(job.key, f"answered what are no {job.repeats} times: {text[:80]}")
        return Timing(job.key, samples_s, Answer(found.max_abs_error, found.same_top1), clock_mhz=found.clock_mhz)

    def _reason(self, status: str, text: str) -> str:
        code = int(status) if status.isdecimal() else 0
        if code == _KILLED + signal.SIGALRM:
            return f"took longer than {ceil(self.deadline_s)} s"
        if code > _KILLED and code - _KILLED in set(signal.Signals):
            return f"died of {signal.Signals(code - _KILLED).name}"
        return text.removeprefix("netbench: ") or f"ended with exit code {status}"


@contextmanager
def batch_of(
    passes: Sequence[Sequence[Job]], threads: int, deadline_s: float, loader: PluginLoader | None
) -> Iterator[Batch]:
    """All turns, while there is what they need; of plugins each pass has a process of its own.

    Raises:
        RunnerError: what runs plugins cannot be built.
        ValueError: some turns are plugins' and others programs'.
    """
    turns = tuple(job for jobs in passes for job in jobs)
    plugins = {job.module.suffix == PLUGIN for job in turns}
    if plugins == {True, False}:
        raise ValueError("A batch is of plugins, or of programs.")
    if loader is None or plugins != {True}:
        yield Batch(turns, threads, deadline_s)
        return
    ends = tuple(accumulate(map(len, passes)))
    with TemporaryDirectory() as folder:
        yield Batch(turns, threads, deadline_s, loader.build(Path(folder)), ends)


def counted(results: Iterable[Timing | Failure | None]) -> Iterator[Timing | Failure]:
    """Without turns that were skipped, or that came after a failure which only shows here."""
    failed = set[str]()
    for result in results:
        if result is None or result.key in failed:
            continue
        if isinstance(result, Failure):
            failed.add(result.key)
        yield result


def lay_out(batch: Batch, folder: Path) -> None:
    """The batch in a folder, with links to its programs."""
    (folder / PROGRAMS).mkdir()
    for name, text in batch.texts.items():
        (folder / name).write_text(text)
    for file, name in batch.programs.items():
        (folder / PROGRAMS / name).symlink_to(file.resolve())
