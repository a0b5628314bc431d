"""BundleRunner: for a machine that nothing here reaches. A folder is carried there, and its results back."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from targets.batch import FILES, PROGRAMS, SCRIPT, Batch, BatchError, batch_of, counted, lay_out
from targets.plugins import PluginLoader
from targets.runner import Failure, Form, Job, RunnerError, Timing

RESULTS, MACHINE, SEALED = "results", "machine", "sealed"


class BundleAwayError(RunnerError):
    """What has to be measured was written into a folder, and there are no results in it yet."""


@dataclass(frozen=True)
class BundleRunner:
    """Writes each batch into a folder of its own in `folder`; once its results are there, reads them.

    The same command, called again, finds what it had asked for: a batch is named by what is in it.
    """

    folder: Path
    threads: int
    deadline_s: float = 30.0
    loader: PluginLoader | None = None
    form: Form = "program"
    at_once: bool = False
    exact: bool = False

    def run(self, passes: Sequence[Sequence[Job]]) -> Iterator[Timing | Failure]:
        """See `Runner.run`.

        Raises:
            BundleAwayError: it was not measured yet.
            RunnerError: the results are damaged, incomplete, or of another machine than those before.
        """
        with batch_of(passes, self.threads, self.deadline_s, self.loader) as batch:
            if batch.turns:
                yield from self._run(batch)

    def _run(self, batch: Batch) -> Iterator[Timing | Failure]:
        # Not by what runs them there: a compiler that was brought up to date makes another.
        asked = f"{self.threads} {batch.ends} {batch.texts['jobs']}"
        digest = hashlib.sha256(asked.encode()).hexdigest()[:12]
        bundle = self.folder / digest
        if not bundle.exists() or self._outdated(batch, bundle):
            self._write(batch, bundle)
        if not (bundle / SEALED).exists():
            raise BundleAwayError(
                f"There is something to measure. Carry the folder {bundle} to the machine and run `sh {SCRIPT.name}` "
                f"in it there until it ends by itself; bring {RESULTS}, {MACHINE} and {SEALED} back into the folder, "
                "and give the same command again."
            )
        self._check(bundle)
        # What programs print may hold whatever else ends a line elsewhere.
        lines = (bundle / RESULTS).read_bytes().decode(errors="replace").split("\n")[:-1]
        if len(lines) < len(batch.turns):
            raise RunnerError(
                f"{bundle / RESULTS} has {len(lines)} of {len(batch.turns)} lines: run `sh {SCRIPT.name}` in the "
                "folder on the machine again, which goes on where it stopped, and bring all three files back."
            )
        try:
            yield from counted(batch.results(lines))
        except BatchError as error:
            raise RunnerError(f"{error} Bring {RESULTS} of {bundle} back once more.") from error

    def _outdated(self, batch: Batch, bundle: Path) -> bool:
        """Whether what nothing came back of yet would be written in another way today."""
        files = bundle / FILES
        known = files.read_text(errors="replace") if files.exists() else ""
        return not (bundle / RESULTS).exists() and not (bundle / SEALED).exists() and known != batch.texts[FILES]

    def _write(self, batch: Batch, bundle: Path) -> None:
        """The folder appears whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        part = Path(mkdtemp(prefix="part-", dir=self.folder))
        part.chmod(0o755)
        try:
            lay_out(batch, part)
            for link in (part / PROGRAMS).iterdir():
                file = link.resolve()
                link.unlink()
                shutil.copy(file, link)
            shutil.rmtree(bundle, ignore_errors=True)
            part.rename(bundle)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def _check(self, bundle: Path) -> None:
        sealed = (line.partition("  ") for line in (bundle / SEALED).read_text(errors="replace").splitlines())
        digests = {name: digest for digest, _, name in sealed}
        for name in (MACHINE, RESULTS):
            file = bundle / name
            if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != digests.get(name):
                raise RunnerError(
                    f"{file} is not what the machine sealed. Bring {RESULTS}, {MACHINE} and {SEALED} back together."
                )
        first, machine = self.folder / MACHINE, (bundle / MACHINE).read_bytes()
        if not first.exists():
            first.write_bytes(machine)
        elif first.read_bytes() != machine:
            raise RunnerError(
                f"{bundle} was measured on another machine than what {first} describes. Measure it there, or use "
                f"another folder for this machine; if it is the same one, remove {first}."
            )
