"""RemoteRunner: measures on a machine that a shell reaches; the machine may be lost and come back."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from targets.batch import SCRIPT, Batch, BatchError, batch_of, counted, lay_out
from targets.plugins import PluginLoader
from targets.runner import Failure, Form, Job, RunnerError, Timing
from targets.shell import LostError, RemoteShell, ShellError

# What `measure.sh` may wait in all until the machine is cool, and for one loader to end and another one to begin.
PATIENCE_S = 600.0 + 2 * 60.0
# A phone that restarts is back within this.
RETURN_S = 180.0
# A candidate that the machine is lost with so often has failed; so many losses in a row, and the machine has.
LOSSES_OF_ONE, LOSSES_IN_A_ROW = 2, 4
# Exit statuses of lines: 1 is adb's own when it does not reach the machine.
REFUSED, GONE = 2, 3
# Clearing gigabytes from a card takes a while.
CLEANING_S = 120.0
# Removes what runs that were killed have left, after a day.
FORGET = "find {0} -mindepth 1 -maxdepth 1 -mmin +1440 -exec rm -rf {{}} +"


@dataclass(frozen=True)
class RemoteRunner:
    """Sends all programs at once, has `measure.sh` run them there, and reads the lines as they come.

    A machine that is lost is waited for, and the batch goes on with the candidate that was running. The machine's
    files are those of one run, in a folder of their own in `folder`, and are removed after it.
    """

    shell: RemoteShell
    folder: str
    threads: int
    deadline_s: float = 30.0
    return_s: float = RETURN_S
    loader: PluginLoader | None = None
    form: Form = "program"
    at_once: bool = True
    exact: bool = False

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        """See `Runner.run`.

        Raises:
            RunnerError: the machine cannot be reached, nothing can be stored there, or it is lost again and again.
        """
        with batch_of(passes, self.threads, self.deadline_s, self.loader) as batch:
            if batch.turns:
                yield from self._run(batch)

    def _run(self, batch: Batch) -> Iterator[Timing | Failure]:
        there = f"{self.folder}/{uuid.uuid4().hex}"
        try:
            self._reach()
            yield from counted(self._measure(batch, there))
        except BatchError as error:
            raise RunnerError(f"{error} Silence whatever else the shell there prints, and measure again.") from error
        finally:
            self._forget(there)

    def _reach(self) -> None:
        """Wait until the machine answers.

        Raises:
            RunnerError: it does not.
        """
        try:
            self.shell.wait(self.return_s)
        except LostError as error:
            raise RunnerError(
                f"The machine did not answer within {self.return_s:.0f} s: {error}. What was measured is kept; connect "
                "it, and the same command goes on."
            ) from error

    def _send(self, batch: Batch, there: str) -> None:
        """Send everything.

        Raises:
            RunnerError: nothing can be stored there.
            LostError: the machine is lost meanwhile.
        """
        try:
            self.shell.run(f"mkdir -p {self.folder} && {FORGET.format(self.folder)} || exit {REFUSED}", CLEANING_S)
            with TemporaryDirectory() as name:
                lay_out(batch, Path(name))
                self.shell.send(Path(name), there)
        except ShellError as error:
            # If the script is there, what arrived is measured, and the script says of the rest that it is damaged.
            with suppress(ShellError):
                self.shell.run(f"test -e {there}/{SCRIPT.name} || exit {GONE}")
                return
            raise RunnerError(
                f"Nothing can be stored in {self.folder} on the machine: {error}. Free some space there, and give the "
                "same command again."
            ) from error

    def _measure(self, batch: Batch, there: str) -> Iterator[Timing | Failure | None]:
        known, losses, lost_with, sent = 0, 0, Counter[int](), False
        # Of those that the machine was lost with; if it is lost with all others too, they are not to blame.
        suspects: list[Failure] = []
        while known < len(batch.turns):
            started = False
            try:
                if not sent:
                    self._send(batch, there)
                sent = started = True
                for result in batch.results(self._lines(batch, there, known, lost_with), known):
                    known, losses = known + 1, 0
                    yield from suspects
                    suspects.clear()
                    yield result
                why = f"{SCRIPT.name} ended early"
            except ShellError as error:
                if error.status == REFUSED:
                    raise RunnerError(f"The machine cannot measure: {error}.") from error
                why = f"{SCRIPT.name} was ended there ({error})"
                if error.status == GONE:
                    # Which is nothing that a candidate does.
                    why, sent, started = "it forgets its files", False, False
            except LostError as error:
                why = str(error)
            if known == len(batch.turns):
                break
            losses += 1
            if losses == LOSSES_IN_A_ROW:
                raise RunnerError(
                    f"The machine was lost {losses} times without a result between: {why}. What was measured is kept. "
                    "Look after the machine; the same command goes on."
                )
            lost_with[known] += started
            if lost_with[known] == LOSSES_OF_ONE:
                reason = f"the machine was lost {LOSSES_OF_ONE} times while it ran: {why}"
                suspects.append(Failure(batch.turns[known].key, reason))
                known += 1
            self._reach()
        yield from suspects

    def _lines(self, batch: Batch, there: str, known: int, lost_with: Mapping[int, int]) -> Iterator[str]:
        script = f"{there}/{SCRIPT.name}"
        given_up = [
            batch.programs[batch.turns[turn].module] for turn, lost in lost_with.items() if lost == LOSSES_OF_ONE
        ]
        line = f"test -e {script} || exit {GONE}; sh {script} {known} {' '.join(given_up)}"
        return self.shell.lines(line, self.deadline_s + PATIENCE_S)

    def _forget(self, there: str) -> None:
        # If this fails, `_send` of a later run does it.
        with suppress(LostError, ShellError):
            self.shell.run(f"rm -rf {there}")
