"""A whole run whose machine is reached by carrying bundles, and an artefact that is measured under an emulator."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import onnx
import pytest

from pipeline import api
from pipeline.errors import ExitCode
from targets.bundle import BundleAwayError
from targets.emulated import EmulatedRunner
from targets.registry import get_target
from targets.runner import Job, Timing
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec
from tvm_latency.standalone.write import NETBENCH

pytestmark = [pytest.mark.slow, pytest.mark.compiles]
WALKS = 12
COUNTING = Path(__file__).with_name("counting_machine.sh")


def measure(bundle: Path, **environ: str) -> None:
    subprocess.run(
        ["sh", bundle / "measure.sh"], env=os.environ | environ, check=True, capture_output=True, timeout=600
    )


def waiting(folder: Path) -> list[Path]:
    """The bundles in a folder that were not measured yet."""
    return [bundle for bundle in folder.iterdir() if bundle.is_dir() and not (bundle / "sealed").exists()]


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_a_run_by_bundles_is_interrupted_everywhere_and_ends(cli: Any) -> None:
    """The machine is an emulator whose clock counts instructions, so that it measures the same each time; its script is
    killed once, and each command ends until the bundle is back.
    """
    pytest.importorskip("ziglang")
    folder = cli.folder / "stick"
    plugin = EmulatedRunner(get_target("arm64-cortex-a76")).plugin(cli.folder)
    counting = {"NETLATHE_LAUNCHER": str(COUNTING), "PLUGIN": str(plugin), "FOLDER": str(cli.folder)}
    target = ["--target", "arm64-cortex-a76", "--runner", f"bundle:{folder}"]
    arguments = ["--space", "tiny", *target, "--budget", "0.7x"]
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
            command = ["sh", bundle / "measure.sh"]
            with subprocess.Popen(command, env=os.environ | counting, stdout=subprocess.PIPE, text=True) as script:
                done = [script.stdout.readline() for _ in range(3)]  # type: ignore[union-attr]
                script.kill()
            assert waiting(folder) == [bundle]
        measure(bundle, **counting)
        if walk == 0:
            assert (bundle / "results").read_text().startswith("".join(done)), "what was measured is kept"
    else:
        pytest.fail(f"not at its end after {WALKS} walks")
    # The calibration, the fastest network, each derived network and what ships.
    assert 4 <= walk <= 7
    manifest = json.loads((cli.folder / "away" / "deploy" / "manifest.json").read_text())
    assert manifest["latency"]["measured_how"].endswith(f"by bundle:{folder}")
    assert manifest["verification"]["against"] == f"PyTorch, on the machine by bundle:{folder}"
    summary = json.loads((cli.folder / "away" / "summary.json").read_text())
    assert summary["measured_ms"] <= summary["budget_ms"]
    assert summary["target"] == f"arm64-cortex-a76@bundle:{folder}"
    # What was carried there and back is what an emulator counts here.
    jobs = [Job(key=role, module=cli.folder / "away" / "compile" / role / NETBENCH) for role in ("winner", "baseline")]
    winner, baseline = EmulatedRunner(get_target("arm64-cortex-a76")).run([jobs])
    assert isinstance(winner, Timing)
    assert isinstance(baseline, Timing)
    assert winner.counts["instructions"] <= 0.7 * baseline.counts["instructions"]
    assert 1e3 * winner.samples_s[0] == pytest.approx(summary["measured_ms"], rel=1e-3)


def names(content: Any) -> set[str]:
    """Of everything in a JSON file."""
    if isinstance(content, list):
        return set().union(*map(names, content))
    return set().union(content, *map(names, content.values())) if isinstance(content, dict) else set()


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_a_run_without_a_machine_counts_and_times_nothing(cli: Any) -> None:
    pytest.importorskip("ziglang")
    target = ("--space", "tiny", "--target", "raspberry-pi-5")
    with cli.start("run", *target, "--budget", "5ms", "--out", "no") as refused:
        _, said = refused.communicate(timeout=600)
    assert refused.returncode == ExitCode.USAGE
    assert "budget 5ms is none for raspberry-pi-5" in " ".join(said.split())
    found = json.loads(cli("run", *target, "--budget", "0.7x", "--out", "counted", "--json"))
    assert 0 < found["emulated_minstr"] <= found["budget_emulated_minstr"]
    assert found["emulated_gain_over_baseline"] >= 1 / 0.7
    assert found["baseline"]["emulated_minstr"] == pytest.approx(found["budget_emulated_minstr"] / 0.7)
    manifest = json.loads((cli.folder / "counted" / "deploy" / "manifest.json").read_text())
    assert manifest["latency"]["emulated_minstr"] == found["emulated_minstr"]
    assert (
        manifest["latency"]["emulated_how"] == "one inference under qemu-aarch64 -cpu cortex-a76; a count, and no time"
    )
    assert manifest["verification"]["against"] == "PyTorch, emulated by qemu-aarch64 -cpu cortex-a76"
    shown = [name for name in names(found) | names(manifest) if name.endswith(("_ms", "speedup_over_baseline"))]
    assert shown == []
    calibrated = json.loads(cli("calibrate", *target, "--json"))
    # The networks that judge are others, and what the run has counted is the same each time.
    assert calibrated["noise"] == 0.0
    assert calibrated["networks"]["within_10pct"] == 1.0
    predicted = json.loads(cli("predict", "counted", *target, "--json", "--explain"))
    assert predicted["predicted_emulated_minstr"] == pytest.approx(found["emulated_minstr"], rel=0.1)
    assert {block["source"] for block in predicted["blocks"]} <= {"emulated", "predicted"}
    assert [name for name in names(calibrated) | names(predicted) if name.endswith(("_ms", "_s")) or name == "ms"] == []


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
