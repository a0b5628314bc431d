"""The documents say what the code does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli import app
from pipeline.errors import ExitCode

ROOT = Path(__file__).parent.parent
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}


def test_every_exit_code_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    rows = {int(code): text for code, text in re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)}
    assert {code: text for code, text in rows.items() if code != 1} == {code: code.meaning for code in ExitCode}


def test_every_command_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    assert set(re.findall(r"^\| `netlathe (\w+)", page, re.MULTILINE)) == COMMANDS


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "docs/guide.md",
        "docs/cli.md",
        "docs/files.md",
        "docs/search.md",
        "docs/spaces.md",
        "docs/c.md",
        "docs/devices.md",
    ],
)
def test_commands_and_links_exist(name: str) -> None:
    page = (ROOT / name).read_text()
    assert set(re.findall(r"\bnetlathe ([a-z]+)\b", page)) <= COMMANDS
    links = re.findall(r"\]\(([^)#:]+)\)", page)
    assert all(((ROOT / name).parent / link).exists() for link in links)


@pytest.mark.slow
@pytest.mark.compiles
def test_the_python_examples_run(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "integration" / "run_examples.py"), str(ROOT / "docs" / "python.md")],
        cwd=tmp_path,
        env=os.environ | {"XDG_DATA_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    examples = (ROOT / "docs" / "python.md").read_text().count("```python")
    assert done.stdout.count(" ran\n") == examples
