"""What a search can be asked for, as a user types it: many budgets, a space of one's own, limits, other algorithms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.files import sha256
from supernet.architecture import Architecture
from supernet.presets import DIGITS
from supernet.space import SearchSpace, Stage
from supernet.space_file import load_space
from tvm_latency.loaded import LoadedNetwork

# That of tiny.py, which is no module here.
TINY = replace(DIGITS, stages=(Stage(16, 2, 1), Stage(24, 2, 2)))

pytestmark = [pytest.mark.slow, pytest.mark.compiles]

# The operators of the `tiny` space, so that nothing but networks is measured for it.
OWN = """
resolution = 16
classes = 10
kernels = [3, 5, 7]
expands = [3, 6]
baseline = "mobilenet_v2@0.5"

[stem]
channels = 16
stride = 1

[first]
channels = 8

[[stages]]
channels = 16
blocks = 2
stride = 1

[[stages]]
channels = 24
blocks = 2
stride = 2

[head]
channels = 320
"""


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def extremes(space: SearchSpace, cost: str) -> tuple[int, int]:
    """The least and the most that a network's operators cost together."""
    costs = [[getattr(block.op_spec(c), cost, 0) for c in block.candidates] for block in space.blocks]
    fixed = sum(getattr(op, cost) for op in space.fixed_ops())
    return fixed + sum(map(min, costs)), fixed + sum(map(max, costs))


SWEEP = ("sweep", "--space", "tiny", "--budgets", "5ms,4ms,0.01x", "--out", "swept")


def test_a_sweep_is_one_warm_up_and_can_be_stopped(finished: Path, cli: Any) -> None:
    said = cli.kill_after("search 4/5", *SWEEP)
    assert "search 2/5" in said
    warmup = cli.folder / "swept" / "warmup.checkpoint"
    warmed_up = sha256(warmup)

    with cli.start(*SWEEP, "--json") as process:
        out, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    # Two of the five epochs are the warm-up's: done before, for the first budget as for the second.
    assert "search 2/5" not in said
    assert said.count("search 3/5") == 1, "the first budget goes on after its third epoch"
    assert sha256(warmup) == warmed_up
    points = json.loads(out)["points"]
    assert [point["budget"] for point in points] == ["5ms", "4ms", "0.01x"]
    assert "No network of space tiny fits" in points[2]["error"]
    assert all("supernet_top1" in point and "on_front" in point for point in points[:2])
    for point in points[:2]:
        assert point["measured_ms"] <= point["budget_ms"]
        assert point["warmup_seconds"] > 0
        assert (
            read(cli.folder / "swept" / point["run"] / "derive" / "result.json")["architecture"]
            == (point["architecture"])
        )
    first, second = (read(cli.folder / "swept" / b / "search" / "result.json")["history"] for b in ("5ms", "4ms"))
    assert first[:2] == second[:2], "the same two epochs"
    assert read(cli.folder / "swept" / "front.json") == {"format": "netlathe-front/1", "points": points}
    assert "plotly" in (cli.folder / "swept" / "front.html").read_text()

    manifests = [(cli.folder / "swept" / b / "manifest.json").read_bytes() for b in ("5ms", "4ms")]
    again = json.loads(cli(*SWEEP, "--json"))["points"]
    assert again[:2] == points[:2]
    assert [(cli.folder / "swept" / b / "manifest.json").read_bytes() for b in ("5ms", "4ms")] == manifests

    summary = json.loads(cli("run", "--resume", "--out", "swept/4ms", "--json"))
    assert summary["architecture"] == points[1]["architecture"]
    assert (cli.folder / "swept" / "4ms" / "report.html").is_file()


def test_a_space_of_ones_own_with_a_limit_of_parameters(finished: Path, cli: Any) -> None:
    file = cli.folder / "own.toml"
    file.write_text(OWN)
    space = load_space(file)
    least, most = extremes(space, "params")
    limit = (least + most) // 2
    search = ("search", "--space", "own.toml", "--budget", "5ms", "--max-params", str(limit), "--out", "own")
    cli.kill_after("search 4/5", *search)
    # The run has a copy.
    file.unlink()
    found = json.loads(cli("search", "--resume", "--out", "own", "--json"))
    network = Architecture.from_text(found["architecture"])
    assert network.params <= limit
    assert len(network.blocks) == 1 + len(space.blocks)
    setup = read(cli.folder / "own" / "setup" / "result.json")
    assert (setup["space"], setup["space_source"]) == ("own", "own.toml")
    rows = read(cli.folder / "own" / "search" / "result.json")["history"]
    assert all("expected_parameters" in row for row in rows if not row["warmup"])
    events = sorted((cli.folder / "own" / "search" / "events").iterdir())
    assert [path.name[-5:] for path in events] == ["00001", "00002", "00003", "00004", "00005"]


def test_too_few_parameters_are_refused_before_a_search(finished: Path, cli: Any) -> None:
    with cli.start("search", "--space", "tiny", "--budget", "5ms", "--max-params", "10", "--out", "few") as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == 5
    assert "parameters 10, of which" in " ".join(said.split())
    assert not (cli.folder / "few" / "search").exists()


def test_evolution_for_two_targets_within_a_limit_of_memory(finished: Path, cli: Any) -> None:
    peaks = sorted({op.peak_bytes for op in TINY.op_specs()})
    limit_kb = (peaks[-1] - 1) / 1000
    targets = ("--target", "x86", "--target", "x86-64-v3")
    options = (*targets, "--algorithm", "evolution", "--max-memory-kb", str(limit_kb), "--budget", "5ms")
    found = json.loads(cli("run", "--space", "tiny", *options, "--out", "evolved", "--json"))
    network = Architecture.from_text(found["architecture"])
    assert max(op.peak_bytes for op in network.op_specs()) <= 1000 * limit_kb
    search = read(cli.folder / "evolved" / "search" / "result.json")
    # Two generations of four after five epochs.
    assert 4 < len(search["ranking"]) <= 8
    assert len(search["history"]) == 7
    chosen = [str(block.choice) for block in network.blocks[1:]]
    ranked = [[names[k] for names, k in zip(search["candidates"], row["path"])] for row in search["ranking"]]
    assert chosen in ranked
    page = (cli.folder / "evolved" / "report.html").read_text()
    assert f"{len(ranked)} networks were evaluated" in page

    assert "Every target" in page
    other = found["also"]["x86-64-v3"]
    assert (found["target"], other["target"]) == ("x86", "x86-64-v3")
    images = np.load(cli.folder / "evolved" / "deploy" / "reference.npz")
    for row, place in ((found, "deploy"), (other, "deploy/x86-64-v3")):
        assert row["measured_ms"] <= row["budget_ms"]
        assert row["artefacts"]["model.so"] == f"{place}/model.so"
        logits = LoadedNetwork(cli.folder / "evolved" / place / "model.so")(images["image"])
        np.testing.assert_allclose(logits, images["output"], atol=1e-4)
        manifest = read(cli.folder / "evolved" / place / "manifest.json")
        assert manifest["target"]["name"] == row["target"]
    rows = search["history"][-1]
    assert {"expected_latency_on_x86", "expected_latency_on_x86-64-v3"} < rows.keys()
    assert rows["expected_over_budget"] < 1.0
