"""Weights stored as float16 against float32: bytes, top-1 agreement on a trained network, latency in turns.

python -m benchmarks.half_weights [--run RUN] [--nets mobilenet_v2,proxyless_mobile] [--epochs N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from benchmarks.results import save_results
from pipeline import api
from pipeline.bench import BenchEntry, speedup, time_interleaved
from pipeline.deploy import LIBRARY, MODEL
from pipeline.files import write_json
from pipeline.nets import input_shape_of
from pipeline.runtimes import BenchModel
from pipeline.verify import real_images
from supernet.data import load_data
from supernet.presets import DIGITS
from targets.registry import get_target
from tvm_latency.loaded import LoadedNetwork
from tvm_latency.opspec import WeightType

TYPES: tuple[WeightType, ...] = ("float32", "float16")
# What storing weights so promises. Ratios of two medians in turns move by a few percent on a busy machine.
MOST_SIZE, LEAST_AGREEMENT, LEAST_SPEED = 0.55, 0.995, 0.99


def trained(folder: Path, epochs: int | None) -> str:
    """The digits space's MobileNetV2, trained: its ONNX model."""
    architecture = folder / "architecture.json"
    write_json(architecture, DIGITS.baseline.to_json())
    return str(api.train(str(architecture), "digits", out=folder / "trained", epochs=epochs)["model"])


def artefacts(net: str, folder: Path, data: str | None) -> dict[WeightType, dict[str, Any]]:
    """Both artefacts of a network, each verified against the float32 reference: their manifests."""
    return {weights: api.compile(net, "x86", folder / weights, data=data, weights=weights) for weights in TYPES}


def agreement(manifests: dict[WeightType, dict[str, Any]], data: str) -> dict[str, float]:
    """On all test images: the share with the same top-1 from both artefacts, and how far outputs are apart."""
    single, half = (LoadedNetwork(Path(manifests[weights]["folder"]) / LIBRARY) for weights in TYPES)
    split = load_data(data, DIGITS.resolution, 0).test
    outputs = [(single(image), half(image)) for image in real_images(split, len(split))]
    return {
        "images": len(outputs),
        "top1_agreement": sum(int(a.argmax() == b.argmax()) for a, b in outputs) / len(outputs),
        "max_abs_error": max(float(abs(a - b).max()) for a, b in outputs),
        "largest_output": max(float(abs(a).max()) for a, _ in outputs),
    }


def compared(net: str, manifests: dict[WeightType, dict[str, Any]]) -> dict[str, Any]:
    """Bytes and, measured in turns, milliseconds of both artefacts of a network."""
    folders = {weights: Path(manifest["folder"]) for weights, manifest in manifests.items()}
    entries = [
        BenchEntry(net, "netlathe", BenchModel(str(folder / MODEL), str(folder / LIBRARY), stored=weights))
        for weights, folder in folders.items()
    ]
    shape = input_shape_of(onnx.load(folders["float32"] / MODEL))
    single, half = time_interleaved(entries, shape, threads=1)
    sizes = {weights: manifest["library_bytes"] for weights, manifest in manifests.items()}
    return {
        "net": net,
        "library_bytes": sizes,
        "size_ratio": sizes["float16"] / sizes["float32"],
        "medians_ms": {weights: 1e3 * median(t.samples_s) for weights, t in zip(TYPES, (single, half))},
        "times_as_fast": speedup(half, single),
        "verification": {weights: manifest["verification"] for weights, manifest in manifests.items()},
        "samples_s": {weights: t.rounds_s for weights, t in zip(TYPES, (single, half))},
    }


def main() -> None:
    """Train or take a run, compile both ways, compare; print and save; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a finished run on digits, instead of training a network here")
    parser.add_argument("--nets", default="mobilenet_v2,proxyless_mobile")
    parser.add_argument("--epochs", type=int)
    options = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        digits = artefacts(options.run or trained(folder, options.epochs), folder / "digits", "digits")
        found = agreement(digits, "digits")
        rows = [compared("digits", digits)]
        rows += [compared(net, artefacts(net, folder / net, None)) for net in options.nets.split(",") if net]
    print(
        f"trained on digits: same top-1 for {100 * found['top1_agreement']:.2f} % of {found['images']} test images, "
        f"outputs of up to {found['largest_output']:.3g} differ by up to {found['max_abs_error']:.2g}"
    )
    for row in rows:
        times = ", ".join(f"{weights} {ms:.4f} ms" for weights, ms in row["medians_ms"].items())
        print(
            f"{row['net']:18} {100 * row['size_ratio']:.1f} % of the bytes, {times}, {row['times_as_fast']:.3f} times "
            "as fast"
        )
    promises = {
        f"top-1 agreement >= {LEAST_AGREEMENT}": found["top1_agreement"] >= LEAST_AGREEMENT,
        **{f"{row['net']}: size <= {MOST_SIZE}": row["size_ratio"] <= MOST_SIZE for row in rows},
        **{f"{row['net']}: not slower": row["times_as_fast"] >= LEAST_SPEED for row in rows},
    }
    broken = [promise for promise, kept in promises.items() if not kept]
    print(f"BROKEN: {broken}" if broken else "every promise kept")
    figures = {"agreement": found, "nets": rows, "promises": promises}
    print(f"written to {save_results('half_weights', get_target('x86'), figures)}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
