"""Calibrations travel: what was exported is imported the same, and what is another's is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

from pipeline import api
from pipeline.config import ConfigError
from pipeline.files import read_json, write_json
from pipeline.measure import code_versions
from pipeline.places import calibration_folder
from pipeline.portable import PortableError, export_calibration
from pipeline.saved_calibration import ACCURACY, ACCURACY_PLOT, LATENCY_TABLE, MODEL, VERSIONS, load_calibration
from supernet.presets import DIGITS
from targets.registry import get_target
from tvm_latency.cost_model import CostModelError
from tvm_latency.drift import Steady
from tvm_latency.fitting import Measured, fit
from tvm_latency.latency_table import LatencyTableError
from tvm_latency.proxyless_yaml import ProxylessYamlError

TARGET = get_target("x86")


def measured() -> Measured:
    """The digits space on a machine that runs networks in nine tenths of what their operators take alone."""
    ops = {op: Steady(1e-6 + op.flops / 50e9, 1e-8) for op in DIGITS.op_specs()}
    nets = [DIGITS.random_architecture(Random(seed)).op_specs() for seed in range(4)]
    return Measured(ops, {net: Steady(0.9 * sum(ops[op].seconds for op in net), 0.0) for net in nets})


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a calibration of the digits space."""
    folder = calibration_folder(tmp_path_factory.mktemp("data") / "m.sqlite", TARGET, "digits")
    folder.mkdir(parents=True)
    fitted = fit(measured(), TARGET)
    fitted.table.save(folder / LATENCY_TABLE)
    fitted.model.save(folder / MODEL)
    write_json(folder / ACCURACY, {"noise": 0.01})
    write_json(folder / VERSIONS, {"versions": list(code_versions(TARGET))})
    return folder


def exported(calibrated: Path, file: Path) -> Path:
    export_calibration(file, calibrated, DIGITS, TARGET, "float32")
    return file


def test_what_was_exported_is_imported_the_same(calibrated: Path, tmp_path: Path) -> None:
    file = exported(calibrated, tmp_path / "mine.json")
    found = api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")
    assert (found["imported"], found["left_out"]) == (str(file), [])
    (table, model), (table_there, model_there) = (
        load_calibration(folder, TARGET) for folder in (Path(found["folder"]), calibrated)
    )
    assert table == table_there
    for op in DIGITS.op_specs():
        assert model.predict(op) == model_there.predict(op)
    content = json.loads(file.read_text())
    assert content["made"]["with"]["netlathe"]
    assert content["target"]["cpu_model"] == TARGET.cpu_model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "netlathe-calibration/0"}, "is no calibration"),
        ({"parts": None}, "is no calibration"),
        ({"fingerprint": "x86 another CPU"}, "its fingerprint is 'x86 another CPU', here it is 'x86 "),
        ({"space": "imagenet"}, "its space is 'imagenet', here it is 'digits'"),
        ({"weights": "float16"}, "its weights is 'float16'"),
        ({"versions": [0, "0.26"]}, r"its versions is \[0, '0.26'\]"),
    ],
)
def test_a_calibration_of_another_kind_is_refused(
    calibrated: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    file = exported(calibrated, tmp_path / "mine.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(PortableError, match=message):
        api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")
    assert not (tmp_path / "calibrations").exists()


def test_a_damaged_part_leaves_no_calibration(calibrated: Path, tmp_path: Path) -> None:
    file = exported(calibrated, tmp_path / "mine.json")
    content = json.loads(file.read_text())
    content["parts"][MODEL]["boosters"] = [{"learner": {}}]
    file.write_text(json.dumps(content))
    with pytest.raises(CostModelError, match="cannot read a booster"):
        api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")
    assert not list(tmp_path.rglob(VERSIONS))


def test_a_damaged_file_leaves_the_calibration_that_was_there(calibrated: Path, tmp_path: Path) -> None:
    file = exported(calibrated, tmp_path / "mine.json")
    there = Path(api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")["folder"])
    before = {path.name: path.read_bytes() for path in there.iterdir()}
    content = json.loads(file.read_text())
    content["parts"][LATENCY_TABLE]["format"] = "netlathe-latency-table/1"
    file.write_text(json.dumps(content))
    with pytest.raises(LatencyTableError, match="not a latency table of format netlathe-latency-table/4"):
        api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")
    assert {path.name: path.read_bytes() for path in there.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"measurements": 20}, "--measurements says how many networks --from measures"),
        ({"source": "x86", "imported": Path("mine.json")}, "--from measures, --import does not"),
        ({"source": "x86"}, "calibrated with measured operators already"),
    ],
)
def test_a_transfer_that_makes_no_sense_is_refused(calibrated: Path, options: dict[str, Any], message: str) -> None:
    database = calibrated.parents[2] / "m.sqlite"
    with pytest.raises(ConfigError, match=message):
        api.calibrate("x86", "digits", database=database, **options)
    assert not database.exists()


@pytest.mark.parametrize(
    ("part", "change"), [(VERSIONS, {"versions": [0, "0.26"]}), (LATENCY_TABLE, {"format": "netlathe-latency-table/1"})]
)
def test_a_calibration_that_holds_no_longer_is_no_obstacle_to_a_transfer(
    calibrated: Path, tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    stale = shutil.copytree(calibrated, tmp_path / calibrated.name)
    write_json(stale / part, {**json.loads((stale / part).read_text()), **change})
    database = calibrated.parents[2] / "m.sqlite"
    found = api._source("x86", TARGET, stale, database, "float32", "--space digits")
    assert found.table == load_calibration(calibrated, TARGET)[0]


@pytest.mark.parametrize("name", ["mine.json", "mine.yaml"])
def test_what_is_imported_is_not_judged_by_what_was_there(calibrated: Path, tmp_path: Path, name: str) -> None:
    file, database = exported(calibrated, tmp_path / name), tmp_path / "m.sqlite"
    folder = calibration_folder(database, TARGET, "digits")
    folder.mkdir(parents=True)
    write_json(folder / ACCURACY, {"noise": 0.5})
    (folder / ACCURACY_PLOT).write_text("of before")
    api.calibrate("x86", "digits", imported=file, database=database)
    assert not (folder / ACCURACY_PLOT).exists()
    # A table of the official code says nothing of how good it is.
    assert read_json(folder / ACCURACY) == ({"noise": 0.01} if name == "mine.json" else {})
    export_calibration(tmp_path / "again.json", folder, DIGITS, TARGET, "float32")


def test_the_official_table_adds_up_to_networks_and_is_imported(calibrated: Path, tmp_path: Path) -> None:
    file = exported(calibrated, tmp_path / "mine.yaml")
    table, _ = load_calibration(calibrated, TARGET)
    ops = DIGITS.baseline.op_specs()
    found = api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")
    imported, model = load_calibration(Path(found["folder"]), TARGET)
    every = DIGITS.architecture([block.candidates[1] for block in DIGITS.blocks]).op_specs()
    assert imported.network_seconds(every) == pytest.approx(table.network_seconds(every))
    assert model.predict(ops[3]).seconds > 0
    # Such a table does not say how many weights the networks had that it was made from.
    assert imported.overflow.outside(ops) is None
    # Layers that no operator of ours is are told.
    file.write_text(file.read_text() + "Resize-input:1: {mean: 1}\n")
    again = api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")
    assert again["left_out"] == ["Resize-input:1"]


def test_a_table_of_another_space_is_refused(calibrated: Path, tmp_path: Path) -> None:
    file = exported(calibrated, tmp_path / "mine.yaml")
    with pytest.raises(PortableError, match=r"no time for .* operators of space cifar"):
        api.calibrate("x86", "cifar", imported=file, database=tmp_path / "m.sqlite")
    with pytest.raises(PortableError, match="holds times of float32 weights"):
        api.calibrate("x86", "digits", imported=file, weights="float16", database=tmp_path / "m.sqlite")
    file.write_text(yaml.safe_dump({"Logits-input:7x7x8-output:9": {"mean": -1}}))
    with pytest.raises(ProxylessYamlError, match="milliseconds above zero"):
        api.calibrate("x86", "digits", imported=file, database=tmp_path / "m.sqlite")


def test_another_ending_is_refused(calibrated: Path, tmp_path: Path) -> None:
    with pytest.raises(PortableError, match=r"should end with .json, or with .yaml"):
        exported(calibrated, tmp_path / "mine.txt")


@pytest.mark.parametrize(("name", "weights"), [("a.txt", "float32"), ("a.yaml", "float16"), ("no/a.json", "float32")])
def test_a_file_that_cannot_be_exported_to_is_refused_before_anything_is_measured(
    tmp_path: Path, name: str, weights: Any
) -> None:
    with pytest.raises(PortableError, match=f"{name}"):
        api.calibrate("x86", "digits", weights=weights, export=tmp_path / name, database=tmp_path / "m.sqlite")
    assert not list(tmp_path.iterdir())
