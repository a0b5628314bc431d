"""Spaces and settings so small that everything is done in seconds; for processes that tests start."""

from dataclasses import replace

from pipeline import api, calibration
from supernet.settings import SEARCH, TRAIN
from supernet.space import DIGITS, PRESETS, Stage
from tvm_latency.plan import CalibrationPlan


def add_tiny_space(name: str) -> None:
    """Put a space under `name`: 24 distinct candidates and five fixed operators, enough to fit a cost model to."""
    PRESETS[name] = replace(DIGITS, name=name, stages=(Stage(16, 2, 1), Stage(24, 2, 2)))
    SEARCH[name] = replace(SEARCH["digits"], warmup_epochs=2, epochs=3)
    TRAIN[name] = replace(TRAIN["digits"], epochs=3, warmup_epochs=1)
    plan = CalibrationPlan(variations=0, fit_networks=3, test_networks=3, heavy_networks=1)
    calibration.calibrate_space.__kwdefaults__["plan"] = api.FULL = plan
