"""Half precision against float32: bytes, top-1 agreement on a trained network, latency in turns.

python -m benchmarks.half_precision [--run RUN] [--nets mobilenet_v2,proxyless_mobile] [--epochs N]

Weights stored as float16, and where this machine has vectors of float16, arithmetic in it.
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

SINGLE, WEIGHTS, ARITHMETIC = "float32", "float16 weights", "float16"
OPTIONS: dict[str, dict[str, Any]] = {SINGLE: {}, WEIGHTS: {"weights": "float16"}, ARITHMETIC: {"dtype": "float16"}}
# What each promises. Ratios of two medians in turns move by a few percent on a busy machine.
MOST_SIZE, LEAST_AGREEMENT, LEAST_SPEED = 0.55, 0.995, 0.99

Manifests = dict[str, dict[str, Any]]


def trained(folder: Path, epochs: int | None) -> str:
    """The digits space's MobileNetV2, trained: its ONNX model."""
    architecture = folder / "architecture.json"
    write_json(architecture, DIGITS.baseline.to_json())
    return str(api.train(str(architecture), "digits", out=folder / "trained", epochs=epochs)["model"])


def artefacts(net: str, folder: Path, data: str | None) -> Manifests:
    """The artefacts of a network, each verified against the float32 reference: their manifests."""
    kinds = [kind for kind in OPTIONS if kind != ARITHMETIC or get_target("x86").float16 is not None]
    return {kind: api.compile(net, "x86", folder / kind, data=data, **OPTIONS[kind]) for kind in kinds}


def agreement(manifests: Manifests, data: str) -> dict[str, Any]:
    """On all test images: the share with the same top-1 as from float32, and how far outputs are apart."""
    networks = {kind: LoadedNetwork(Path(manifest["folder"]) / LIBRARY) for kind, manifest in manifests.items()}
    split = load_data(data, DIGITS.resolution, 0).test
    images = real_images(split, len(split))
    single, *halves = ([network(image) for image in images] for network in networks.values())
    return {
        "images": len(images),
        "largest_output": max(float(abs(output).max()) for output in single),
        "of": {
            kind: {
                "top1_agreement": sum(int(a.argmax() == b.argmax()) for a, b in zip(single, half)) / len(images),
                "max_abs_error": max(float(abs(a - b).max()) for a, b in zip(single, half)),
            }
            for kind, half in zip([kind for kind in networks if kind != SINGLE], halves)
        },
    }


def compared(net: str, manifests: Manifests) -> dict[str, Any]:
    """Bytes and, measured in turns, milliseconds of the artefacts of a network."""
    folders = {kind: Path(manifest["folder"]) for kind, manifest in manifests.items()}
    entries = [
        BenchEntry(
            net,
            "netlathe",
            BenchModel(str(folder / MODEL), str(folder / LIBRARY), stored=made["weights"], dtype=made["dtype"]),
        )
        for folder, made in zip(folders.values(), manifests.values())
    ]
    shape = input_shape_of(onnx.load(folders[SINGLE] / MODEL))
    timings = dict(zip(folders, time_interleaved(entries, shape, threads=1)))
    sizes = {kind: manifest["library_bytes"] for kind, manifest in manifests.items()}
    return {
        "net": net,
        "library_bytes": sizes,
        "size_ratio": {kind: size / sizes[SINGLE] for kind, size in sizes.items()},
        "medians_ms": {kind: 1e3 * median(timing.samples_s) for kind, timing in timings.items()},
        "times_as_fast": {kind: speedup(timing, timings[SINGLE]) for kind, timing in timings.items()},
        "verification": {kind: manifest["verification"] for kind, manifest in manifests.items()},
        "samples_s": {kind: timing.rounds_s for kind, timing in timings.items()},
    }


def main() -> None:
    """Train or take a run, compile each way, compare; print and save; exit with 1 if a promise was broken."""
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
    promises = {}
    for kind, of in found["of"].items():
        print(
            f"trained on digits, {kind}: same top-1 for {100 * of['top1_agreement']:.2f} % of {found['images']} test "
            f"images, outputs of up to {found['largest_output']:.3g} differ by up to {of['max_abs_error']:.2g}"
        )
        promises[f"{kind}: top-1 agreement >= {LEAST_AGREEMENT}"] = of["top1_agreement"] >= LEAST_AGREEMENT
        for row in rows:
            print(
                f"{row['net']:18} {100 * row['size_ratio'][kind]:.1f} % of the bytes, {row['medians_ms'][kind]:.4f} ms "
                f"and {row['medians_ms'][SINGLE]:.4f} ms in float32, {row['times_as_fast'][kind]:.3f} times as fast"
            )
            promises[f"{kind}, {row['net']}: size <= {MOST_SIZE}"] = row["size_ratio"][kind] <= MOST_SIZE
            promises[f"{kind}, {row['net']}: not slower"] = row["times_as_fast"][kind] >= LEAST_SPEED
    broken = [promise for promise, kept in promises.items() if not kept]
    print(f"BROKEN: {broken}" if broken else "every promise kept")
    figures = {"agreement": found, "nets": rows, "promises": promises}
    print(f"written to {save_results('half_precision', get_target('x86'), figures)}")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
