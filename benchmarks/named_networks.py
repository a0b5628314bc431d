"""The five published networks at 224 pixels: compiled, verified, predicted by the cost model, timed against peers.

python -m benchmarks.named_networks [--against onnxruntime] [--threads 1]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.results import save_results
from pipeline import api
from supernet.named import NAMED
from targets.target import get_target

NETS = ("mobilenet_v2", "mobilenet_v2@1.4", *(name for name in NAMED if name != "mobilenet_v2"))


def compiled(net: str, folder: Path, threads: int) -> dict[str, Any]:
    """What `netlathe compile` says of a network, and how long the whole command's work took."""
    start = perf_counter()
    manifest = api.compile(net, "x86", folder / net, threads=threads)
    return {"compile_verify_measure_s": perf_counter() - start, **manifest}


def main() -> None:
    """Calibrate, compile, predict, time; print and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", default="onnxruntime")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        database = folder / "measurements.sqlite"
        start = perf_counter()
        calibration = api.calibrate("x86", "imagenet", threads=options.threads, database=database)
        calibrate_s = perf_counter() - start
        manifests = {net: compiled(net, folder, options.threads) for net in NETS}
        predictions = {net: api.predict(net, "x86", threads=options.threads, database=database) for net in NETS}
        bench = api.bench(list(NETS), "x86", options.against, threads=options.threads)
    rows = []
    for table in bench["nets"]:
        net = table["net"]
        measured_ms, predicted_ms = manifests[net]["latency"]["measured_ms"], predictions[net]["predicted_ms"]
        rows.append(
            {
                **table,
                "measured_ms": measured_ms,
                "predicted_ms": predicted_ms,
                "prediction_error": predicted_ms / measured_ms - 1,
                "verification": manifests[net]["verification"],
                "fallbacks": manifests[net]["fallbacks"],
                "params": predictions[net]["params"],
            }
        )
        times = ", ".join(f"{r['runtime']} {r['median_ms']:.3f} ms" for r in table["results"])
        print(
            f"{net:18} {table['macs'] / 1e6:6.1f}M MACs: {times}; {table['speedup_over_best_peer']:.2f}x the best; "
            f"predicted {predicted_ms:.3f} ms ({100 * rows[-1]['prediction_error']:+.1f} %)"
        )
    accuracy = {name: calibration[name] for name in ("blocks", "model", "networks", "noise")}
    print(f"calibration of imagenet: {calibrate_s:.0f} s; on unseen networks {calibration['networks']}")
    figures = {"threads": options.threads, "calibrate_s": calibrate_s, "accuracy": accuracy, "nets": rows}
    print(f"written to {save_results('named_networks', get_target('x86'), figures)}")


if __name__ == "__main__":
    main()
