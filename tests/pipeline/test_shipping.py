from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline import deploy, finding, shipping, stages
from pipeline.config import make_config
from pipeline.context import RunContext
from pipeline.run_folder import RunFolderError
from supernet.derive import BudgetError
from supernet.presets import DIGITS
from targets.registry import get_target
from targets.runner import Timing
from tvm_latency.onnx_graph import network_graph


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a run with a budget of half the baseline, in which nothing is really compiled."""
    monkeypatch.setattr(shipping.onnx, "load", lambda path: network_graph(DIGITS.baseline.op_specs()))
    monkeypatch.setattr(
        deploy, "build", lambda model, target, folder, weights, also: deploy.Build(folder, (), (), weights)
    )

    def call(**options: Any) -> RunContext:
        config = make_config(budget="0.5x", **options)
        run = RunContext(config, tmp_path, tmp_path / "m.sqlite", lambda *_: None, lambda sentence: None)
        run.results["setup"] = {"classes": 10, "space_source": "digits"}
        run.results["derive"] = {"architecture": DIGITS.baseline.text}
        return run

    return call


def measured(monkeypatch: pytest.MonkeyPatch, *seconds: float) -> Iterator[float]:
    """The winner takes these seconds, one after the other; the baseline one."""
    found = iter(seconds)

    def measured(*_: object) -> dict[str, Timing]:
        return {"winner": Timing("winner", (next(found),)), "baseline": Timing("baseline", (1.0,))}

    monkeypatch.setattr(shipping, "what_runs", lambda folder, target: folder)
    monkeypatch.setattr(shipping, "measure_files", measured)
    return found


def test_over_the_budget_once_is_measured_again(context: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rest = measured(monkeypatch, 0.6, 0.4, 0.3)
    result = shipping.compile(context(), tmp_path)
    assert (result["winner"]["measured_s"], result["budget_s"], result["measurements"]) == (0.4, 0.5, 2)
    assert list(rest) == [0.3]


def test_over_the_budget_every_time_is_an_error(context: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    measured(monkeypatch, 0.7, 0.8, 0.6)
    with pytest.raises(
        BudgetError,
        match=r"over the budget in each of 3 measurements \(600 of 500 ms on x86\); .* `netlathe run --resume --out",
    ):
        shipping.compile(context(), tmp_path)


def test_each_target_keeps_its_budget_or_the_weighted_mean_does(
    context: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """0.4 on one target and 0.55 on the other, of 0.5: over on the second, 0.95 in the mean."""
    also = {"also": ("x86-64-v3",)}
    rest = measured(monkeypatch, 0.4, 0.55, 0.45, 0.45, 0.3)
    result = shipping.compile(context(**also), tmp_path)
    assert (result["winner"]["measured_s"], result["also"]["x86-64-v3"]["winner"]["measured_s"]) == (0.45, 0.45)
    assert (result["measurements"], list(rest)) == (2, [0.3])
    rest = measured(monkeypatch, 0.4, 0.55, 0.3)
    result = shipping.compile(context(**also, shares=(1.0, 1.0)), tmp_path)
    assert result["also"]["x86-64-v3"]["winner"]["measured_s"] == 0.55
    assert (result["measurements"], list(rest)) == (1, [0.3])


def test_a_run_does_not_go_on_with_other_versions() -> None:
    target, versions = get_target("x86"), finding.all_versions([get_target("x86")])
    stored = {"target": {"fingerprint": target.fingerprint}, "versions": versions}
    run = RunContext(make_config(), Path("run"), Path("m.sqlite"), lambda *_: None, lambda sentence: None)
    run.results["setup"] = stored
    stages._check_origin(run)
    stored["versions"] = {**versions, "schedules": "0", "torch": "1.0"}
    with pytest.raises(RunFolderError, match=r"other versions \(torch 1.0 there, .* here, schedules 0 there, \d+ here"):
        stages._check_origin(run)
    stored["target"] = {"fingerprint": "x86 another"}
    with pytest.raises(RunFolderError, match="run was measured on x86 another; this is x86 "):
        stages._check_origin(run)


def test_an_artefact_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A compile that dies while it links leaves the old library, and no manifest that claims to know it."""
    (tmp_path / deploy.LIBRARY).write_text("old")
    (tmp_path / deploy.MANIFEST).write_text("{}")

    def export(path: Path) -> Path:
        path.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(deploy, "compile_network", lambda *_: SimpleNamespace(export=export))
    with pytest.raises(KeyboardInterrupt):
        deploy.build(deploy.onnx.ModelProto(), get_target("x86"), tmp_path)
    assert (tmp_path / deploy.LIBRARY).read_text() == "old"
    assert not (tmp_path / deploy.MANIFEST).exists()


def test_the_reference_is_written_whole(tmp_path: Path) -> None:
    image = np.ones((1, 3, 2, 2), np.float32)
    deploy.write_reference(tmp_path, image, lambda x: x.sum(axis=(2, 3)))
    stored = np.load(tmp_path / deploy.REFERENCE)
    assert (stored["image"] == image).all()
    assert (stored["output"] == 4).all()
    assert [path.name for path in tmp_path.iterdir()] == [deploy.REFERENCE]
