"""The folder that goes to a GPU: built, run and read, with a driver that computes on this CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu_runtimes, gpu_runtimes_there, results
from supernet.architecture import Architecture
from tvm_latency import gpu_network

pytestmark = pytest.mark.compiles
NET = "small"
SMALL = Architecture.from_text("r32 c8s2 8k3e1 8k3e3 16k5e3s2 h16 n10", name=NET)


@pytest.fixture(scope="module")
def folder(cuda_on_cpu: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("stick")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_network, "find_cuda_compiler", lambda: cuda_on_cpu)
        # A real network takes a CPU minutes.
        patch.setattr(gpu_runtimes, "named_architecture", lambda name: SMALL)
        patch.setattr(sys, "argv", ["gpu_runtimes", "build", str(made), "--nets", NET, "--batches", "1,2"])
        gpu_runtimes.main()
    return made


def test_what_comes_back_is_read(
    folder: Path,
    cuda_on_cpu: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(cuda_on_cpu.driver()), "PYTHONPATH": ""}
    words = [sys.executable, "there.py", "--rounds", "2", "--seconds", "0"]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results.json").read_text())
    assert len(found["cases"]) == 4
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpu_runtimes", "read", str(folder)])
    with pytest.raises(SystemExit) as end:
        gpu_runtimes.main()
    said = capsys.readouterr().out
    # It is right, and compared with nothing here.
    assert (end.value.code, said.count("kept   "), "BROKEN" in said) == (0, 4, False)
    assert len(json.loads((tmp_path / "gpu_runtimes.json").read_text())["cases"]) == 4
    # What has a result is not run again.
    again = subprocess.run(
        words, cwd=folder, env={**environment, "LD_LIBRARY_PATH": ""}, capture_output=True, check=False
    )
    assert again.returncode == 0


@pytest.mark.parametrize("batch", [1, 2])
def test_the_others_have_the_same_network(folder: Path, batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(gpu_runtimes_there, "FOLDER", folder)
    case = next(c for c in json.loads((folder / "job.json").read_text())["cases"] if c["batch"] == batch)
    image = gpu_runtimes_there.probe_input((batch, 3, 32, 32))
    with torch.inference_mode():
        output = gpu_runtimes_there.network_of(case, "cpu")(torch.from_numpy(image)).numpy()
    expected = np.load(folder / f"{NET}-{batch}.expected.npy")
    assert np.abs(output - expected).max() <= 1e-5 * np.abs(expected).max()
    session = gpu_runtimes_there.onnx_session(case, "CPUExecutionProvider", {})
    (answer,) = session.run(None, {session.get_inputs()[0].name: image})
    assert np.abs(answer - expected).max() <= 1e-5 * np.abs(expected).max()


def test_without_results_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_runtimes", "read", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"run `python3 there\.py` in the folder"):
        gpu_runtimes.main()
