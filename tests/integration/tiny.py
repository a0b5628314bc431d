"""Spaces and settings so small that everything is done in seconds; for processes that tests start."""

from dataclasses import replace

from pipeline import api, calibration
from supernet.presets import DIGITS, PRESETS
from supernet.settings import RECIPES, Recipe
from supernet.space import Stage
from tvm_latency.plan import CalibrationPlan

# 24 distinct candidates and five fixed operators, enough to fit a cost model to.
TINY = replace(DIGITS, stages=(Stage(16, 2, 1), Stage(24, 2, 2)))


def add_tiny_space(name: str) -> None:
    """Put a space under `name`, and make everything short for images of its size."""
    PRESETS[name] = replace(TINY, name=name)
    digits = RECIPES["short"]["digits"]
    RECIPES["short"]["digits"] = Recipe(
        replace(digits.search, warmup_epochs=2, epochs=3, population=4, generations=2, judged_images=64),
        replace(digits.train, epochs=3, warmup_epochs=1),
    )
    plan = CalibrationPlan(variations=0, fit_networks=3, test_networks=3, heavy_networks=1)
    calibration.calibrate_space.__kwdefaults__["plan"] = api.FULL = plan
