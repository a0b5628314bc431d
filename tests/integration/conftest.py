"""One finished run of the `tiny` space, shared by all integration tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

TINY_CLI = Path(__file__).parent / "tiny_cli.py"


@dataclass(frozen=True)
class Cli:
    """`netlathe` as a process of its own, in a folder, with a database and a home of its own."""

    folder: Path

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(TINY_CLI), *arguments],
            cwd=self.folder,
            env=os.environ | {"XDG_DATA_HOME": str(self.folder / "home"), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> str:
        """Standard output of a command that succeeds."""
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
        return out

    def kill_after(self, line: str, *arguments: str) -> str:
        """SIGKILL a command when it has printed this line; what it had printed before."""
        with self.start(*arguments) as process:
            printed: list[str] = []
            for text in process.stderr or ():
                printed.append(text)
                if text.startswith(line):
                    process.kill()
                    return " ".join(" ".join(printed).split())
        pytest.fail(f"{line!r} was never printed: {printed}")


@pytest.fixture(scope="session")
def cli(tmp_path_factory: pytest.TempPathFactory) -> Cli:
    return Cli(tmp_path_factory.mktemp("netlathe"))


@pytest.fixture(scope="session")
def finished(cli: Cli) -> Path:
    """The folder of a run that was never stopped. Its budget is so wide that no noise of a measurement decides."""
    cli("run", "--space", "tiny", "--budget", "5ms", "--out", "whole")
    return cli.folder / "whole"
