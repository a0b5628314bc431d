"""A whole run whose machine is reached by carrying bundles, and an artefact that is measured under an emulator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline import api
from pipeline.errors import ExitCode
from targets.bundle import BundleAwayError
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec

pytestmark = [pytest.mark.slow, pytest.mark.compiles]
WALKS = 12


def measure(bundle: Path, **environ: str) -> None:
    subprocess.run(
        ["sh", bundle / "measure.sh"], env=os.environ | environ, check=True, capture_output=True, timeout=600
    )


def waiting(folder: Path) -> list[Path]:
    """The bundles in a folder that were not measured yet."""
    return [bundle for bundle in folder.iterdir() if bundle.is_dir() and not (bundle / "sealed").exists()]


def test_a_run_by_bundles_is_interrupted_everywhere_and_ends(cli: Any) -> None:
    """The machine is this one; its script is killed once, and each command ends until the bundle is back."""
    folder = cli.folder / "stick"
    arguments = ["--space", "tiny", "--target", "x86-64-v3", "--runner", f"bundle:{folder}", "--budget", "5ms"]
    for walk in range(WALKS):
        arguments = ["--resume"] if walk else arguments
        with cli.start("run", *arguments, "--out", "away") as process:
            _, said = process.communicate(timeout=600)
        if process.returncode == 0:
            break
        assert process.returncode == ExitCode.MEASUREMENT, said
        assert "give the same command again" in " ".join(said.split())
        (bundle,) = waiting(folder)
        if walk == 0:
            with subprocess.Popen(["sh", bundle / "measure.sh"], stdout=subprocess.DEVNULL) as script:
                time.sleep(2.0)
                script.kill()
            assert waiting(folder) == [bundle]
        measure(bundle)
    else:
        pytest.fail(f"not at its end after {WALKS} walks")
    # The calibration, the baseline, the fastest network, each derived network and what ships.
    assert 5 <= walk <= 8
    manifest = json.loads((cli.folder / "away" / "deploy" / "manifest.json").read_text())
    assert manifest["latency"]["measured_how"].endswith(f"by bundle:{folder}")
    assert manifest["verification"]["against"] == f"PyTorch, on the machine by bundle:{folder}"
    summary = json.loads((cli.folder / "away" / "summary.json").read_text())
    assert summary["measured_ms"] <= summary["budget_ms"]
    assert summary["target"] == f"x86-64-v3@bundle:{folder}"


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_an_artefact_for_a_board_is_carried_there_and_back(tmp_path: Path) -> None:
    """The board is an emulator, so its times mean nothing; that its answer is right does."""
    pytest.importorskip("ziglang")
    ops = [
        OpSpec(kind="conv", height=8, width=8, in_channels=3, out_channels=8, kernel=3),
        OpSpec(kind="pool", height=8, width=8, in_channels=8, out_channels=8),
    ]
    onnx.save(network_graph(ops), tmp_path / "small.onnx")
    target, out = f"raspberry-pi-5@bundle:{tmp_path}/stick", tmp_path / "out"
    with pytest.raises(BundleAwayError):
        api.compile(str(tmp_path / "small.onnx"), target, out)
    (bundle,) = waiting(tmp_path / "stick")
    measure(bundle, NETLATHE_LAUNCHER="qemu-aarch64 -cpu cortex-a76")
    found = api.compile(str(tmp_path / "small.onnx"), target, out)
    assert found["latency"]["measured_ms"] > 0
    assert found["verification"]["max_abs_error"] < 1e-4
