"""How well latencies are predicted: random networks that nothing was fitted to, and the five published ones.

python -m benchmarks.latency_model [--spaces imagenet,cifar] [--target x86] [--threads 1]

Every space is calibrated from an empty database. The published networks are measured in the same passes, and none of
them is fitted to.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.networks import PUBLISHED
from benchmarks.results import save_results
from pipeline.calibration import SpaceCalibration, calibrate_space
from pipeline.console import ProgressView
from supernet.named import named_architecture
from supernet.space import IMAGENET, SearchSpace, preset
from targets.target import Target, get_target
from tvm_latency.accuracy import Scores
from tvm_latency.calibrate import Calibration
from tvm_latency.database import MeasurementDatabase
from tvm_latency.fitting import Net
from tvm_latency.plan import FULL

# What the model promises of random networks of its space, and of published ones.
WITHIN_10, WITHIN_5, SPEARMAN, MAPE, NOISE_MULTIPLE, NAMED_ERROR, MINUTES = 0.99, 0.90, 0.98, 0.03, 1.5, 0.08, 12.0


def calibrated(space: SearchSpace, target: Target, folder: Path) -> dict[str, Any]:
    """A calibration from nothing: how long it took, its scores, and every prediction beside its measurement."""
    with closing(MeasurementDatabase(folder / f"{space.name}.sqlite")) as database, ProgressView() as progress:
        start = perf_counter()
        nets = {name: named_architecture(name).op_specs() for name in PUBLISHED} if space == IMAGENET else {}
        found = calibrate_space(space, target, database, progress, plan=FULL, beside=tuple(nets.values()))
        seconds = perf_counter() - start
    calibration, named = found.calibration, published(found.calibration, nets)
    return {
        "space": space.name,
        "seconds": seconds,
        "measured": calibration.measured,
        "failures": dict(calibration.failures),
        "disturbed": calibration.disturbed,
        "accuracy": asdict(calibration.accuracy),
        "correction": asdict(calibration.model.correction),
        "held_out": [asdict(net) for net in found.held_out],
        "published": named,
        "promises": promises(found, seconds, named),
    }


def published(calibration: Calibration, nets: Mapping[str, Net]) -> list[dict[str, Any]]:
    """Networks that were measured beside what was fitted to, and predicted."""
    rows = []
    for name, ops in nets.items():
        if ops not in calibration.beside:
            raise RuntimeError(f"{name} could not be measured: {calibration.failures}")
        measured = calibration.beside[ops]
        table = calibration.table.completed(ops, calibration.model.predict)
        prediction = table.network(ops)
        rows.append(
            {
                "net": name,
                "measured_ms": 1e3 * measured.seconds,
                "noise": measured.noise,
                "predicted_ms": 1e3 * prediction.mean_s,
                "spread_ms": 1e3 * prediction.spread_s,
                "error": prediction.mean_s / measured.seconds - 1.0,
                "measured_operators": sum(table.entry(op).source == "measured" for op in ops),
                "operators": len(ops),
            }
        )
    return rows


def promises(found: SpaceCalibration, seconds: float, named: list[dict[str, Any]]) -> dict[str, bool]:
    """Which hold."""
    accuracy = found.calibration.accuracy
    ours, baselines = accuracy.networks, accuracy.baselines
    return {
        f"within 10 % >= {WITHIN_10}": ours.within_10pct >= WITHIN_10,
        f"within 5 % >= {WITHIN_5}": ours.within_5pct >= WITHIN_5,
        f"Spearman >= {SPEARMAN}": (ours.spearman or 0.0) >= SPEARMAN,
        f"MAPE <= {NOISE_MULTIPLE} noise or {MAPE}": ours.mape <= max(MAPE, NOISE_MULTIPLE * accuracy.noise),
        f"in {MINUTES:g} minutes": seconds <= 60 * MINUTES,
        **{f"MAPE better than {name}": ours.mape < scores.mape for name, scores in baselines.items()},
        **{
            f"Spearman better than {name}": (ours.spearman or 0.0) > (scores.spearman or 0.0)
            for name, scores in baselines.items()
        },
        **{f"{row['net']} within {NAMED_ERROR}": abs(row["error"]) <= NAMED_ERROR for row in named},
    }


def scores_line(name: str, scores: Scores) -> str:
    """One predictor's scores as text."""
    return (
        f"  {name:32} within 5 % {scores.within_5pct:5.0%}  within 10 % {scores.within_10pct:5.0%}  "
        f"MAPE {scores.mape:6.2%}  RMSE {1e3 * scores.rmse_s:.4f} ms  "
        f"Spearman {scores.spearman or 0:.4f}  Kendall {scores.kendall or 0:.4f}"
    )


def print_space(table: dict[str, Any]) -> None:
    """One space's figures as text."""
    accuracy = table["accuracy"]
    print(
        f"{table['space']}: {table['measured']} measurements in {table['seconds'] / 60:.1f} minutes, "
        f"{len(table['failures'])} failures, disturbed {table['disturbed']:.0%}; noise {accuracy['noise']:.2%}"
    )
    print(scores_line("latency table, corrected", Scores(**accuracy["networks"])))
    print(scores_line("cost model alone", Scores(**accuracy["model"])))
    for name, scores in accuracy["baselines"].items():
        print(scores_line(f"baseline {name}", Scores(**scores)))
    print(scores_line("operators, by the cost model", Scores(**accuracy["blocks"])))
    for row in table["published"]:
        print(
            f"  {row['net']:18} measured {row['measured_ms']:.3f} ms, predicted {row['predicted_ms']:.3f} "
            f"+- {row['spread_ms']:.3f} ms ({row['error']:+.1%})"
        )
    broken = [promise for promise, kept in table["promises"].items() if not kept]
    print(f"  BROKEN: {', '.join(broken)}" if broken else "  every promise kept", flush=True)


def main() -> None:
    """Calibrate, judge, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", default="imagenet,cifar")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    target = get_target(options.target).with_threads(options.threads)
    tables = []
    with TemporaryDirectory() as folder:
        for name in options.spaces.split(","):
            tables.append(calibrated(preset(name), target, Path(folder)))
            print_space(tables[-1])
    print(f"written to {save_results('latency_model', target, {'spaces': tables})}")


if __name__ == "__main__":
    main()
