"""A calibration on disk: saved, and loaded again where it still holds."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from shlex import quote

from pipeline.calibration import SpaceCalibration
from pipeline.figures import predicted_against_measured
from pipeline.files import read_json, write_json
from pipeline.measure import MeasureError, code_versions
from targets.target import Target
from tvm_latency.cost_model import CostModel
from tvm_latency.latency_table import LatencyTable
from tvm_latency.opspec import WeightType

LATENCY_TABLE, MODEL, VERSIONS = "latency_table.json", "cost_model.json", "versions.json"
ACCURACY, ACCURACY_PLOT = "accuracy.json", "accuracy.html"


def save_calibration(found: SpaceCalibration, folder: Path, target: Target) -> None:
    """Write the latency table and the cost model where `load_calibration` finds them, and how good they are."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / VERSIONS).unlink(missing_ok=True)
    found.calibration.table.save(folder / LATENCY_TABLE)
    found.calibration.model.save(folder / MODEL)
    networks = [asdict(net) for net in found.held_out]
    accuracy = found.calibration.accuracy
    write_json(folder / ACCURACY, {**asdict(accuracy), "networks_held_out": networks})
    predicted_against_measured(networks, accuracy.noise, target.unit).write_html(folder / ACCURACY_PLOT)
    # Last, so that a folder that has it is complete.
    write_json(folder / VERSIONS, {"versions": list(code_versions(target))})


def space_options(space: str, resolution: int | None = None, width: float = 1.0) -> str:
    """What names a space on the command line: `--space cifar --resolution 48 --width 0.5`."""
    of_task = {"resolution": resolution, "width": None if width == 1.0 else width}
    return " ".join([f"--space {quote(space)}", *(f"--{k} {v!r}" for k, v in of_task.items() if v is not None)])


def load_calibration(
    folder: Path, target: Target, weights: WeightType = "float32", asked: str = ""
) -> tuple[LatencyTable, CostModel]:
    """What `save_calibration` wrote for weights that are stored so.

    asked: the `space_options` that name the space, for a message that says what to type; a preset's unless given.

    Raises:
        MeasureError: nothing was calibrated for this target, or on another machine, or with other versions.
        LatencyTableError, CostModelError: a file is damaged.
    """
    options = "" if weights == target.stored else f" --weights {weights}"
    options += "" if target.dtype == "float32" else f" --dtype {target.dtype}"
    asked = asked or space_options(folder.name)
    command = f"`netlathe calibrate --target {quote(target.name)} {asked} --threads {target.threads}{options}`"
    saved = read_json(folder / VERSIONS) if (folder / VERSIONS).exists() else None
    if saved is None:
        raise MeasureError(
            f"Target {target.name} has no calibration for space {folder.name} with {target.threads} thread(s) and "
            f"{weights} weights. "
            f"Run {command} first."
        )
    there, here = saved.get("versions"), list(code_versions(target))
    if there != here:
        raise MeasureError(
            f"The calibration in {folder} was made with other versions of schedules and TVM ({there}; here {here}). "
            f"Calibrate again: {command}."
        )
    table = LatencyTable.load(folder / LATENCY_TABLE)
    if table.fingerprint != target.fingerprint:
        raise MeasureError(
            f"The calibration in {folder} was made on {table.fingerprint}; this is {target.fingerprint}. "
            f"Calibrate again: {command}."
        )
    return table, CostModel.load(folder / MODEL, target)
