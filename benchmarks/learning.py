"""How accuracy grows with the number of measurements, and whether it helps to choose them.

Everything was measured once; here parts of it are given to the fit, as if no more had been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from statistics import mean
from typing import Any

from targets.target import Target
from tvm_latency.accuracy import Scores
from tvm_latency.calibrate import Calibration
from tvm_latency.cost_model import MIN_OPS, CostModel
from tvm_latency.fitting import Fitted, Measured, fit
from tvm_latency.opspec import OpSpec

SIZES = (25, 50, 100, 200)
# Of the measurements, the share that is networks.
NETWORKS = 0.25
SEEDS = 3
# Operators that are chosen at once, by one model.
BATCH = 16

# Which of the operators to measure next: (those that were not, in random order; a model of those that were) -> some.
Choose = Callable[[Sequence[OpSpec], Callable[[], CostModel]], Sequence[OpSpec]]


def at_random(rest: Sequence[OpSpec], model: Callable[[], CostModel]) -> Sequence[OpSpec]:
    """Any."""
    return rest[:BATCH]


def least_sure(rest: Sequence[OpSpec], model: Callable[[], CostModel]) -> Sequence[OpSpec]:
    """Those whose prediction has the greatest spread, relative to it."""
    fitted = model()
    predicted = {op: fitted.predict(op) for op in rest}
    return sorted(rest, key=lambda op: predicted[op].spread_s / predicted[op].seconds, reverse=True)[:BATCH]


def learning_curve(calibration: Calibration, target: Target) -> list[dict[str, Any]]:
    """Scores on the networks that were left out, by the number of measurements and how they were chosen.

    Means over seeds; the greatest size has all measurements.
    """
    every = calibration.fitted_to
    sizes = [*SIZES, len(every.ops) + len(every.networks)]
    rows = []
    for name, choose in (("at random", at_random), ("least sure", least_sure)):
        scores: dict[int, list[Scores]] = {size: [] for size in sizes}
        for seed in range(SEEDS):
            for size, fitted in _fits(calibration, target, sizes, choose, seed):
                scores[size].append(_scores(calibration, fitted))
        for size, found in scores.items():
            rows.append(
                {
                    "measurements": size,
                    "chosen": name,
                    "mape": mean(score.mape for score in found),
                    "spearman": mean(score.spearman or 0.0 for score in found),
                    "within_5pct": mean(score.within_5pct for score in found),
                    "spearman_of_seeds": [score.spearman for score in found],
                }
            )
    return rows


def _fits(
    calibration: Calibration, target: Target, sizes: Sequence[int], choose: Choose, seed: int
) -> Iterator[tuple[int, Fitted]]:
    """(size, what is found with so many measurements), each with those of the one before."""
    random, every = Random(seed), calibration.fitted_to
    nets, ops = random.sample(list(every.networks), len(every.networks)), random.sample(list(every.ops), len(every.ops))
    known, others = ops[:MIN_OPS], [op for net in calibration.test for op in net]

    def model() -> CostModel:
        return CostModel.fit(known, [every.ops[op].seconds for op in known], target, seed)

    for size in sizes:
        networks = max(2, round(NETWORKS * size)) if size < len(ops) + len(nets) else len(nets)
        while len(known) < min(size - networks, len(ops)):
            chosen = choose([op for op in ops if op not in known], model)
            known = [*known, *chosen[: size - networks - len(known)]]
        measured = Measured({op: every.ops[op] for op in known}, {net: every.networks[net] for net in nets[:networks]})
        yield size, fit(measured, target, others, seed)


def _scores(calibration: Calibration, fitted: Fitted) -> Scores:
    measured_s = [found.seconds for found in calibration.test.values()]
    return Scores.of([fitted.table.network_seconds(net) for net in calibration.test], measured_s)
