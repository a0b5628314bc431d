"""What a run is about: its space, its images, its limits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline import finding
from pipeline.config import make_config
from pipeline.context import RunContext
from pipeline.places import calibration_folder
from supernet.costs import LATENCY, PARAMETERS, PathCosts
from supernet.presets import DIGITS
from supernet.settings import recipe
from supernet.space import SpaceError
from tvm_latency.latency_table import Entry, LatencyTable

TOML = (
    re.findall(r"```toml\n(.*?)```", (Path(__file__).parents[2] / "docs" / "spaces.md").read_text(), re.DOTALL)[0]
    .replace("resolution = 64", "resolution = 16")
    .replace("stride = 2", "stride = 1")
)


def context(folder: Path, **options: Any) -> RunContext:
    return RunContext(make_config(**options), folder, folder / "m.sqlite", lambda *_: None, lambda sentence: None)


def set_up(folder: Path, **options: Any) -> RunContext:
    """A run whose first stage is done."""
    run = context(folder, **options)
    (folder / "setup").mkdir(parents=True, exist_ok=True)
    run.results["setup"] = finding.setup(run, folder / "setup")
    return run


def test_width_and_resolution_are_the_spaces_the_images_and_the_calibrations(tmp_path: Path) -> None:
    run = set_up(tmp_path, width=0.5, resolution=24)
    assert run.results["setup"]["space"] == "digits@0.5-r24"
    assert run.results["setup"]["space_source"] == "digits"
    assert run.results["setup"]["networks"] == run.space.size
    assert run.space == DIGITS.for_task(width=0.5, resolution=24)
    images, _ = run.data.test.batch(torch.arange(2))
    assert tuple(images.shape) == (2, 3, 24, 24)
    assert run.space.baseline.resolution == 24
    folders = {calibration_folder(tmp_path, run.targets[0], name) for name in ("digits", run.space.name)}
    assert len(folders) == 2
    # More than 16 pixels: the recipe of small photographs.
    assert finding.search_settings(run.space, run.config).batch_size == recipe("short", 24).search.batch_size == 128


def test_the_copy_of_a_space_in_the_run_folder_counts(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(TOML)
    space = set_up(tmp_path / "run", space=str(mine)).space
    assert (space.name, space.classes, space.stages[0].out_channels) == ("leaves", 10, 16)
    assert (tmp_path / "run" / "setup" / "mine.toml").read_bytes() == mine.read_bytes()
    setup = {"classes": 10, "space_source": str(mine)}
    for change in (lambda: mine.write_text(TOML.replace("channels = 64", "channels = 128")), mine.unlink):
        change()
        later = context(tmp_path / "run", space=str(mine))
        later.results["setup"] = setup
        assert later.space == space


def test_a_file_that_happens_to_have_the_name_of_a_preset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("digits").write_text("notes")
    assert set_up(tmp_path / "run", space="digits").space == DIGITS


def test_activations_of_float16_take_half_of_the_memory(tmp_path: Path) -> None:
    phone = {"target": "arm64-cortex-a76", "budget": "0.6x"}
    single = set_up(tmp_path / "single", max_memory_kb=120.0, **phone)
    half = set_up(tmp_path / "half", max_memory_kb=60.0, dtype="float16", **phone)
    assert half.space.blocks == single.space.blocks
    assert [target.dtype for target in half.targets] == ["float16"]


def test_a_limit_of_memory_takes_candidates_out(tmp_path: Path) -> None:
    run = set_up(tmp_path, max_memory_kb=120.0)
    assert run.space == DIGITS.within_memory(120_000)
    assert all(op.peak_bytes <= 120_000 for op in run.space.op_specs())
    assert run.results["setup"]["networks"] < DIGITS.size
    assert run.results["setup"]["space"] == "digits", "its calibration holds"
    with pytest.raises(SpaceError, match="bytes"):
        set_up(tmp_path / "less", max_memory_kb=1.0)


def test_the_limits_of_a_run(tmp_path: Path) -> None:
    entries = {op.key: Entry(1e-5, 0.0, "measured", 1e-5) for op in DIGITS.op_specs()}
    (tmp_path / "calibrate").mkdir()
    LatencyTable(target_name="x86", fingerprint="here", entries=entries).save(
        tmp_path / "calibrate" / "latency_table.json"
    )
    for limit, names in ((None, [LATENCY]), (1e5, [LATENCY, PARAMETERS])):
        run = set_up(tmp_path, max_params=limit)
        run.results["baseline"] = {"budget_s": 2e-3}
        assert [constraint.name for constraint in run.constraints] == names
        assert [constraint.budget for constraint in run.constraints] == [True, False][: len(names)]
        assert run.constraints[0].limit == 2e-3
    smallest = PathCosts.of_space(DIGITS, lambda op: float(op.params)).cheapest()
    network = DIGITS.architecture([block.candidates[k] for block, k in zip(DIGITS.blocks, smallest)])
    assert run.constraints[1].costs.of(smallest) == network.params
    assert run.constraints[1].limit == 1e5


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"algorithm": "gradient", "penalty": "target", "warmup_epochs": 6, "epochs": 8}),
        ({"search_epochs": 1}, {"warmup_epochs": 1, "epochs": 1}),
        ({"search_epochs": 10}, {"warmup_epochs": 8, "epochs": 10}),
        ({"algorithm": "evolution", "penalty": "power", "seed": 3}, {"algorithm": "evolution", "penalty": "power"}),
        ({"recipe": "paper"}, {"warmup_epochs": 40, "epochs": 120}),
    ],
)
def test_the_settings_of_a_search(options: dict[str, Any], expected: dict[str, Any]) -> None:
    settings = finding.search_settings(DIGITS, make_config(**options))
    assert {name: getattr(settings, name) for name in expected} == expected
    assert settings.seed == options.get("seed", 0)
