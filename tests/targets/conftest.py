"""Jobs for runners that measure elsewhere: shell scripts that speak like netbench, and that may do anything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from targets.runner import Job


@pytest.fixture
def job(tmp_path: Path) -> Callable[..., Job]:
    """Makes a job whose key is the name; `script` runs before the samples are printed."""
    folder = tmp_path / "programs"
    folder.mkdir()

    def make(name: str, script: str = "", samples: str = "0.001, 0.002, 0.003") -> Job:
        path = folder / f"{name}.netbench"
        found = f'{{"samples_s": [{samples}], "max_abs_error": 1e-6, "same_top1": true}}'
        path.write_text(f"#!/bin/sh\n# {name}\n{script}\necho '{found}'\n")
        path.chmod(0o755)
        return Job(key=name, module=path, repeats=3, warmup=1, evict_bytes=64)

    return make
