"""Where things are kept when nobody says where."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_data_path

from targets.target import Target
from tvm_latency.opspec import WeightType

RUNS = Path("runs")


def default_database() -> Path:
    """The measurements of this user, shared by all runs."""
    return user_data_path("netlathe", appauthor=False) / "measurements.sqlite"


def calibration_folder(database: Path, target: Target, space_name: str, weights: WeightType = "float32") -> Path:
    """Where `netlathe calibrate` leaves the table and the cost model of a space: beside the database."""
    options = "" if weights == "float32" else f"-{weights}"
    options += "" if target.dtype == "float32" else f"-in-{target.dtype}"
    return database.parent / "calibrations" / f"{target.file_name}-t{target.threads}{options}" / space_name
