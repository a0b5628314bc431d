"""A child process that is spoken to by lines of JSON, and that may crash, hang or answer nonsense without harm."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_PACKAGE_PARENT = Path(__file__).resolve().parents[1]


class ChildEnded(Exception):  # noqa: N818  (an event of the protocol, not an error a user sees)
    """The child is gone or of no use any more; the message says how."""


class Child:
    """A running Python module of ours."""

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        """Start `python ARGUMENTS`, usually `-m` and a module."""
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in `close`)
        self._process = subprocess.Popen(
            # The working directory makes sure that `targets` is this package and not a folder of the user's.
            [sys.executable, *arguments],
            cwd=_PACKAGE_PARENT,
            env=dict(environ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def send(self, message: Mapping[str, object]) -> None:
        """Write one line.

        Raises:
            ChildEnded: it no longer listens.
        """
        assert self._process.stdin is not None
        try:
            print(json.dumps(message), file=self._process.stdin, flush=True)
        except BrokenPipeError as error:
            raise ChildEnded(self._how_it_ended()) from error

    def receive(self, deadline_s: float) -> dict[str, Any]:
        """The next line.

        Raises:
            ChildEnded: there is none in time, it is no JSON object, or the child reports an error.
        """
        try:
            line = self._lines.get(timeout=deadline_s)
        except queue.Empty:
            raise ChildEnded(f"took longer than {deadline_s:g} s") from None
        if line is None:
            raise ChildEnded(self._how_it_ended())
        try:
            reply = json.loads(line)
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise ChildEnded(f"answered what is no message: {line.strip()[:80]!r}")
        if "error" in reply:
            raise ChildEnded(str(reply["error"]))
        return reply

    def _how_it_ended(self) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        said = self._stderr.read().decode(errors="replace").strip().splitlines()
        how = f"died of {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{how}: {said[-1]}" if said else how

    def kill(self) -> None:
        """End the process, whatever it is doing; a thread that waits for its reply is told."""
        self._process.kill()

    def close(self) -> None:
        """End the process and let go of it."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None:
                # A line that a dead child never took is still in the buffer, and closing tries to send it again.
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
