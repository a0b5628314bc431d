"""How well latencies are predicted: random networks that nothing was fitted to, and the five published ones.

python -m benchmarks.latency_model [--spaces imagenet,cifar] [--target x86] [--threads 1] [--second x86-64-v3]
    [--keep DIR]
python -m benchmarks.latency_model --spaces imagenet --target cuda-sm90@bundle:STICK --second '' --keep DIR

Every space is calibrated from an empty database. With --keep that is left in a folder; given once more, its samples
are judged again and only what they lack is measured. The published networks are measured in the same passes, and none
of them is fitted to. What judges is then measured in more passes, which do not count as the calibration's time: so that
it is not their noise that is judged. Then the calibration is transferred to a second target by a few networks, and
judged by others there. From all that was measured follows how accuracy grows with the number of measurements. With a
bundle the command ends where there is something to carry, and is given again once the results are back.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing, nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.learning import learning_curve
from benchmarks.networks import PUBLISHED
from benchmarks.results import save_results
from pipeline.calibration import SpaceCalibration, calibrate_space, workbench
from pipeline.console import ProgressView
from pipeline.measure import code_versions
from supernet.named import named_architecture
from supernet.presets import IMAGENET, preset
from supernet.settings import Progress
from supernet.space import SearchSpace
from targets.bundle import BundleAwayError
from targets.registry import get_target
from targets.target import Target
from tvm_latency.accuracy import Scores
from tvm_latency.calibrate import Calibration, network_key
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.fitting import Net
from tvm_latency.latency_table import LatencyTable
from tvm_latency.plan import FULL, TRANSFERRED, transfer_plan
from tvm_latency.workbench import ALWAYS, Candidate, MeasureSettings

# What the model promises of random networks of its space, and of published ones.
WITHIN_10, WITHIN_5, SPEARMAN, MAPE, NOISE_MULTIPLE, NAMED_ERROR, MINUTES = 0.99, 0.90, 0.98, 0.03, 1.5, 0.08, 12.0
# On GPUs less is promised.
GPU_WITHIN_10, GPU_SPEARMAN = 0.95, 0.97
# From and with so many measurements.
OPERATORS, NETWORKS, UNSEEN = 300, 60, 60
# And of networks on another target, from so many measurements there.
TRANSFER_SPEARMAN = 0.97
# What judges has four times twelve rounds, however quiet; networks that are fitted to have twice as many.
JUDGING = MeasureSettings(attempts=4, noise=ALWAYS)
# Nothing is measured again of what has its rounds.
AS_IT_IS = MeasureSettings(attempts=1)


def calibrated(space: SearchSpace, target: Target, second: Target | None, folder: Path) -> dict[str, Any]:
    """A calibration from nothing: how long it took, its scores, and every prediction beside its measurement."""
    with closing(MeasurementDatabase(folder / f"{space.name}.sqlite")) as database, ProgressView() as progress:
        start = perf_counter()
        nets = {name: named_architecture(name).op_specs() for name in PUBLISHED} if space == IMAGENET else {}
        beside = tuple(nets.values())
        found = calibrate_space(space, target, database, progress, plan=FULL, beside=beside)
        seconds, timed = perf_counter() - start, found.calibration
        measure_longer([*timed.test, *beside], target, database, progress)
        found = calibrate_space(space, target, database, progress, plan=FULL, beside=beside, settings=AS_IT_IS)
        calibration, named = found.calibration, published(found.calibration, nets)
        transfer = transferred(space, calibration, second, database, progress) if second else None
    return {
        "space": space.name,
        "seconds": seconds,
        "measured": timed.measured,
        "failures": dict(timed.failures),
        "disturbed": timed.disturbed,
        "accuracy": asdict(calibration.accuracy),
        "correction": asdict(calibration.model.correction),
        "overflow": asdict(calibration.table.overflow),
        "fitted_to": _counts(calibration),
        "held_out": [asdict(net) for net in found.held_out],
        "published": named,
        "transfer": transfer,
        "learning_curve": learning_curve(calibration, target),
        "promises": {
            "no failures": not timed.failures,
            **(gpu_promises(found) if target.kind == "cuda" else promises(found, seconds, named, transfer)),
        },
    }


def measure_longer(nets: Iterable[Net], target: Target, database: MeasurementDatabase, progress: Progress) -> None:
    """Give networks that were measured, and that nothing is fitted to, the rounds of `JUDGING`."""
    context = Context(target.fingerprint, *code_versions(target), evict_bytes=0)
    with workbench(target, database, progress, JUDGING) as bench:
        bench.measure({network_key(net): Candidate(net, context) for net in nets})


def transferred(
    space: SearchSpace, calibration: Calibration, target: Target, database: MeasurementDatabase, progress: Progress
) -> dict[str, Any]:
    """A calibration of another target from this one: scores on the networks that this one was judged by."""
    plan, nets = transfer_plan(TRANSFERRED), tuple(calibration.test)

    def judged(settings: MeasureSettings | None) -> Calibration:
        return calibrate_space(
            space, target, database, progress, plan=plan, beside=nets, source=calibration.fitted, settings=settings
        ).calibration

    judged(None)
    measure_longer(nets, target, database, progress)
    found = judged(AS_IT_IS)
    measured_s = {net: found.beside[net].seconds for net in nets if net in found.beside}

    def scores(table: LatencyTable) -> dict[str, Any]:
        return asdict(Scores.of([table.network_seconds(net) for net in measured_s], list(measured_s.values())))

    return {
        "target": target.name,
        "measurements": len(found.fitted_to.networks) + len(found.test),
        "noise": found.accuracy.noise,
        "transferred": scores(found.table),
        "source_as_it_is": scores(calibration.table),
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


def promises(
    found: SpaceCalibration, seconds: float, named: list[dict[str, Any]], transfer: dict[str, Any] | None
) -> dict[str, bool]:
    """Which hold."""
    there = {}
    if transfer:
        ours_there, as_it_is, name = transfer["transferred"], transfer["source_as_it_is"], transfer["target"]
        there = {
            f"Spearman on {name} >= {TRANSFER_SPEARMAN}": (ours_there["spearman"] or 0.0) >= TRANSFER_SPEARMAN,
            f"MAPE on {name} better than the source's": ours_there["mape"] < as_it_is["mape"],
        }
    accuracy, counts = found.calibration.accuracy, _counts(found.calibration)
    ours, baselines = accuracy.networks, accuracy.baselines
    return {
        f"{UNSEEN} unseen networks": ours.count == UNSEEN,
        f"fitted to at most {OPERATORS} operators and {NETWORKS} networks": counts["operators"] <= OPERATORS
        and counts["networks"] + counts["heavy_networks"] <= NETWORKS,
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
        **there,
    }


def gpu_promises(found: SpaceCalibration) -> dict[str, bool]:
    """Which hold of those for GPUs."""
    ours = found.calibration.accuracy.networks
    return {
        f"{UNSEEN} unseen networks": ours.count == UNSEEN,
        f"within 10 % >= {GPU_WITHIN_10}": ours.within_10pct >= GPU_WITHIN_10,
        f"Spearman >= {GPU_SPEARMAN}": (ours.spearman or 0.0) >= GPU_SPEARMAN,
    }


def _counts(calibration: Calibration) -> dict[str, int]:
    """How many measurements the model was fitted to."""
    measured = calibration.fitted_to
    return {
        "operators": len(measured.ops),
        "networks": len(measured.networks),
        "heavy_networks": len(measured.heavy),
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
    overflow = table["overflow"]
    print(
        f"  fitted to {table['fitted_to']}; weights beyond {overflow['above_bytes'] / 1e6:.1f} MB: "
        f"{1e12 * overflow['seconds_per_byte']:.1f} +- {1e12 * overflow['spread_s_per_byte']:.1f} ps a byte, and "
        f"such networks lack {overflow['share']:.1%} besides"
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
    if table["transfer"]:
        print(f"  on {table['transfer']['target']}, by {table['transfer']['measurements']} networks measured there:")
        for name in ("transferred", "source_as_it_is"):
            print(scores_line(name.replace("_", " "), Scores(**table["transfer"][name])))
    for row in table["learning_curve"]:
        print(
            f"  {row['measurements']:4} measurements, operators {row['chosen']:10}: MAPE {row['mape']:6.2%}, "
            f"Spearman {row['spearman']:.4f} ({min(row['spearman_of_seeds']):.4f} to "
            f"{max(row['spearman_of_seeds']):.4f})"
        )
    broken = [promise for promise, kept in table["promises"].items() if not kept]
    print(f"  BROKEN: {', '.join(broken)}" if broken else "  every promise kept", flush=True)


def main() -> None:
    """Calibrate, judge, print, save; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", default="imagenet,cifar")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--second", default="x86-64-v3")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--variant", default="", help="what tells the file of results from others")
    options = parser.parse_args()
    target = get_target(options.target).with_threads(options.threads)
    second = get_target(options.second).with_threads(options.threads) if options.second else None
    tables = []
    with nullcontext(options.keep) if options.keep else TemporaryDirectory() as folder:
        # Kernels that anybody has compiled before do not count.
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        for name in options.spaces.split(","):
            try:
                tables.append(calibrated(preset(name), target, second, Path(folder)))
            except BundleAwayError as error:
                sys.exit(str(error))
            print_space(tables[-1])
    print(f"written to {save_results('latency_model', target, {'spaces': tables}, options.variant)}")
    sys.exit(0 if all(all(table["promises"].values()) for table in tables) else 1)


if __name__ == "__main__":
    main()
