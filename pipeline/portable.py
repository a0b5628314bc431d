"""Calibrations that travel: one JSON file with all and where it comes from, or the official ProxylessNAS table."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline.deploy import versions
from pipeline.files import read_json, write_json
from pipeline.measure import code_versions
from pipeline.saved_calibration import ACCURACY, ACCURACY_PLOT, LATENCY_TABLE, MODEL, VERSIONS, load_calibration
from supernet.space import SearchSpace
from targets.target import Target
from targets.unit import MILLISECONDS
from tvm_latency.cost_model import CostModel
from tvm_latency.latency_table import Entry, LatencyTable
from tvm_latency.opspec import WeightType, stored_as
from tvm_latency.proxyless_yaml import read_proxyless_yaml, write_proxyless_yaml

FORMAT = "netlathe-calibration/3"
_YAML = (".yaml", ".yml")
_PARTS = (LATENCY_TABLE, MODEL, ACCURACY)


class PortableError(ValueError):
    """The file is no calibration, or one for something else."""


def check_export(file: Path, target: Target, weights: WeightType) -> None:
    """Refuse a file that a calibration cannot be written to, before anything is measured.

    Raises:
        PortableError: another ending, weights or figures that the official table cannot say, or no such folder.
    """
    if file.suffix not in (".json", *_YAML):
        raise PortableError(f"{file} should end with .json, or with .yaml for an official ProxylessNAS table.")
    if file.suffix in _YAML and weights != "float32":
        raise PortableError(f"{file}: the official table has no {weights} weights. Name a .json.")
    if file.suffix in _YAML and target.unit != MILLISECONDS:
        raise PortableError(f"{file}: the official table has milliseconds, not {target.unit.name}. Name a .json.")
    if not file.parent.is_dir():
        raise PortableError(f"{file} cannot be written: there is no folder {file.parent}.")


def export_calibration(file: Path, folder: Path, space: SearchSpace, target: Target, weights: WeightType) -> None:
    """Write the calibration in `folder` to a file; its ending decides: `.json`, or `.yaml` for the official table.

    The table holds the space's operators with the milliseconds that each adds to a network.

    Raises:
        MeasureError: there is no calibration that holds here.
        PortableError: see `check_export`.
    """
    check_export(file, target, weights)
    table, _ = load_calibration(folder, target, weights)
    if file.suffix in _YAML:
        ops = stored_as(space.op_specs(), weights, target.batch)
        write_proxyless_yaml({op: table.entry(op).network_s for op in ops}, file)
        return
    write_json(
        file,
        {
            "format": FORMAT,
            "made": {"date": datetime.now(timezone.utc).date().isoformat(), "with": versions()},
            "target": asdict(target),
            "fingerprint": target.fingerprint,
            "space": space.name,
            "weights": weights,
            "versions": list(code_versions(target)),
            "parts": {name: read_json(folder / name) for name in _PARTS},
        },
    )


def import_calibration(
    file: Path, folder: Path, space: SearchSpace, target: Target, weights: WeightType
) -> tuple[str, ...]:
    """Put the calibration of a file where `load_calibration` finds it; what of it could not be used.

    A YAML table says nothing of where it was measured; its cost model is fitted to its entries.

    Raises:
        PortableError: no calibration, or one of another target, space, type of weights or version.
        ProxylessYamlError: a YAML file that is no latency table.
        LatencyTableError, CostModelError: a part of the file is damaged.
    """
    if file.suffix in _YAML:
        return _import_yaml(file, folder, space, target, weights)
    content = read_json(file)
    if content is None or content.get("format") != FORMAT or not isinstance(content.get("parts"), dict):
        raise PortableError(
            f'{file} is no calibration: `netlathe calibrate --export` writes files of format "{FORMAT}".'
        )
    expected: dict[str, Any] = {
        "fingerprint": target.fingerprint,
        "space": space.name,
        "weights": weights,
        "versions": list(code_versions(target)),
    }
    for name, here in expected.items():
        if content.get(name) != here:
            raise PortableError(
                f"{file} is a calibration of another kind: its {name} is {content.get(name)!r}, here it is {here!r}. "
                "Name what it was made for with --target, --space, --threads, --weights and --dtype, or calibrate here."
            )
    _install({name: content["parts"].get(name) for name in _PARTS}, folder, target, weights)
    return ()


def _import_yaml(file: Path, folder: Path, space: SearchSpace, target: Target, weights: WeightType) -> tuple[str, ...]:
    seconds, left_out = read_proxyless_yaml(file)
    if target.unit != MILLISECONDS:
        raise PortableError(f"{file} holds milliseconds, and {target.name} is emulated, which counts instructions.")
    if weights != "float32":
        raise PortableError(f"{file} holds times of float32 weights, and {weights} was asked for.")
    if missing := [op.key for op in space.op_specs(target.batch) if op not in seconds]:
        raise PortableError(
            f"{file} has no time for {len(missing)} operators of space {space.name}, the first is {missing[0]}. "
            "Name the space that it was made for with --space."
        )
    table = LatencyTable(
        target_name=target.name,
        fingerprint=target.fingerprint,
        entries={op.key: Entry(found, 0.0, "measured", found) for op, found in seconds.items()},
    )
    folder.mkdir(parents=True, exist_ok=True)
    for stale in (VERSIONS, ACCURACY_PLOT):
        (folder / stale).unlink(missing_ok=True)
    write_json(folder / ACCURACY, {})
    table.save(folder / LATENCY_TABLE)
    CostModel.fit(tuple(seconds), tuple(seconds.values()), target).save(folder / MODEL)
    write_json(folder / VERSIONS, {"versions": list(code_versions(target))})
    return left_out


def _install(parts: dict[str, Any], folder: Path, target: Target, weights: WeightType) -> None:
    """Put the parts into the folder if together they are a calibration; if not, what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as name:
        fresh = Path(name)
        for part, content in parts.items():
            write_json(fresh / part, content)
        write_json(fresh / VERSIONS, {"versions": list(code_versions(target))})
        load_calibration(fresh, target, weights)
        for stale in (VERSIONS, ACCURACY_PLOT):
            (folder / stale).unlink(missing_ok=True)
        for part in (*parts, VERSIONS):
            (fresh / part).replace(folder / part)
