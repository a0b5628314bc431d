"""A shell on another machine, reached by a command: `ssh`, `adb shell`, or `sh` itself for one that is emulated."""

from __future__ import annotations

import math
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# A machine that was reached answers a trivial command within this.
ANSWER_S = 20.0
# Files are sent at least so fast, after a while for what is not the sending.
SLOWEST_BYTES_S, OVERHEAD_S = 500_000, 60.0
POLL_S = 2.0


class LostError(RuntimeError):
    """The machine cannot be reached, or is silent for too long."""


class ShellError(RuntimeError):
    """A line of shell ended with another status than 0; the message is its last word on standard error."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(said or f"exit code {status}")
        self.status = status


@dataclass(frozen=True)
class RemoteShell:
    """Runs lines of POSIX shell on a machine.

    words: the command that takes such a line as its last word, and hands on its standard streams and exit status.
    lost: the exit statuses that are the command's own, when it does not reach the machine.
    reconnect: commands that may help then.
    """

    words: tuple[str, ...]
    lost: tuple[int, ...] = ()
    reconnect: tuple[tuple[str, ...], ...] = ()

    def lines(self, line: str, wait_s: float, deadline_s: float = math.inf) -> Iterator[str]:
        """What it prints, line by line; each has to come within `wait_s` of the one before, and all in `deadline_s`.

        Raises:
            LostError: one does not, or the machine is lost.
            ShellError: it fails.
        """
        end = time.monotonic() + deadline_s
        with tempfile.TemporaryFile() as errors, self._start(line, subprocess.DEVNULL, errors) as process:
            lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
            threading.Thread(target=_read, args=(process, lines), daemon=True).start()
            try:
                while (found := lines.get(timeout=max(0.0, min(wait_s, end - time.monotonic())))) is not None:
                    yield found
                self._check(process.wait(wait_s), errors)
            except (queue.Empty, subprocess.TimeoutExpired):
                raise LostError(f"nothing came from the machine for {wait_s:.0f} s") from None
            finally:
                _kill(process)

    def run(self, line: str, deadline_s: float = ANSWER_S) -> str:
        """What it prints.

        Raises:
            LostError, ShellError: see `lines`; it has `deadline_s` for all of them.
        """
        return "".join(self.lines(line, deadline_s, deadline_s))

    def send(self, folder: Path, there: str) -> None:
        """Copy what is in a folder, and what links in it lead to, into a folder there that is made for it.

        Raises:
            LostError, ShellError: see `lines`.
        """
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        deadline_s = OVERHEAD_S + size / SLOWEST_BYTES_S
        # Folders last: if they do not all fit, what is small and says how it goes on is there.
        names = [file.name for file in sorted(folder.iterdir(), key=Path.is_dir)]
        pack = subprocess.Popen(["tar", "-chf", "-", "-C", str(folder), *names], stdout=subprocess.PIPE)
        assert pack.stdout is not None
        # 1 is adb's own status when it does not reach the machine.
        line = f"mkdir -p {there} && tar -xf - -C {there} || exit 2"
        with pack, tempfile.TemporaryFile() as errors, self._start(line, pack.stdout, errors) as process:
            pack.stdout.close()
            try:
                self._check(process.wait(deadline_s), errors)
            except subprocess.TimeoutExpired:
                raise LostError(f"{size >> 20} MB could not be sent within {deadline_s:.0f} s") from None
            else:
                if pack.wait() != 0:
                    raise ShellError(pack.returncode, f"tar could not read what was built in {folder}")
            finally:
                _kill(process)
                pack.kill()

    def wait(self, deadline_s: float) -> None:
        """Until the machine answers, again and again.

        Raises:
            LostError: it does not within `deadline_s`.
        """
        end = time.monotonic() + deadline_s
        while True:
            try:
                self.run("true")
            except (LostError, ShellError) as error:
                if time.monotonic() + POLL_S > end:
                    raise LostError(f"it cannot be reached ({error})") from error
                for command in self.reconnect:
                    with suppress(subprocess.TimeoutExpired):
                        subprocess.run(command, capture_output=True, timeout=ANSWER_S, check=False)
                time.sleep(POLL_S)
            else:
                return

    def _start(self, line: str, stdin: int | IO[bytes], errors: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                [*self.words, line], stdin=stdin, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        except OSError as error:
            raise LostError(f"{self.words[0]} could not be started: {error.strerror}") from error

    def _check(self, status: int, errors: IO[bytes]) -> None:
        if status == 0:
            return
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
        last = said[-1] if said else ""
        if status in self.lost:
            raise LostError(last or f"exit code {status}")
        raise ShellError(status, last)


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        # A connection may be lost within a line.
        if line.endswith(b"\n"):
            lines.put(line.decode(errors="replace"))
    lines.put(None)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """With all that it has started here."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
