"""Deploy: the artefact of one network for one target, with the facts that prove it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx

from pipeline.agreement import Images, Inference, Verification
from pipeline.files import sha256, write_atomically, write_json
from pipeline.plain_c import PLAIN_C
from targets.runner import Timing
from targets.target import EMULATED, LOCAL, Target
from tvm_latency.compiled import CompiledNetwork, compile_network
from tvm_latency.lower import Lowered
from tvm_latency.opspec import WeightType
from tvm_latency.schedules import schedule_version

FORMAT = "netlathe-artefact/1"
LIBRARY, MODEL, REFERENCE, MANIFEST = "model.so", "model.onnx", "reference.npz", "manifest.json"


@dataclass(frozen=True)
class Build:
    """A compiled network in its folder: its kernels, which operators had none of ours, how weights are stored."""

    folder: Path
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...]
    weights: WeightType = "float32"

    @property
    def library(self) -> Path:
        """The shared library with the weights inside."""
        return self.folder / LIBRARY


def build(
    model: onnx.ModelProto,
    target: Target,
    folder: Path,
    weights: WeightType = "float32",
    finish: Callable[[Lowered], Lowered] | None = None,
    also: Callable[[CompiledNetwork], None] | None = None,
) -> Build:
    """Compile `model` into `folder`: `model.so` with its weights stored as `weights`, and `model.onnx` as it was given.

    finish: as for `compile_network`; also: writes more of what was compiled.

    The manifest of an earlier artefact goes first, so that whatever happens none describes files of another.

    Raises:
        LoweringError: an operator that cannot be compiled, or weights that the type cannot hold.
        ToolchainError: nothing here links for the target.
    """
    folder.mkdir(parents=True, exist_ok=True)
    compiled = compile_network(model, target, weights, finish)
    (folder / MANIFEST).unlink(missing_ok=True)
    compiled.export(folder / f".new-{LIBRARY}").replace(folder / LIBRARY)
    write_atomically(folder / MODEL, model.SerializeToString(deterministic=True))
    if also is not None:
        also(compiled)
    return Build(folder, compiled.kernels, compiled.fallbacks, weights)


def write_reference(folder: Path, image: Images, reference: Inference) -> None:
    """Write `reference.npz`: the arrays `image` and `output`, what the reference answers to it."""
    content = BytesIO()
    np.savez(content, image=image, output=reference(image))
    write_atomically(folder / REFERENCE, content.getvalue())


def write_manifest(
    built: Build,
    target: Target,
    verification: Verification | None,
    timing: Timing | None,
    predicted_s: float | None,
) -> dict[str, Any]:
    """Write `manifest.json`, last of all, so that a folder that has one is complete; also its content.

    verification: None where nothing here runs code for the target; timing: None where nothing here times it.
    """
    unit = target.unit
    manifest = {
        "format": FORMAT,
        "target": {"name": target.name, "kind": target.kind, "fingerprint": target.fingerprint},
        "isa": {"mtriple": target.mtriple, "mcpu": target.mcpu, "features": list(target.features)},
        "threads": target.threads,
        "weights": built.weights,
        "dtype": target.dtype,
        "library_bytes": built.library.stat().st_size,
        "versions": versions(),
        "schedule_version": schedule_version(target),
        "latency": {
            unit.measured_key: 1e3 * median(timing.samples_s) if timing else None,
            f"{unit.obtained}_how": _how(len(timing.samples_s), target) if timing else None,
            f"predicted_{unit.key}": None if predicted_s is None else 1e3 * predicted_s,
            "predicted_how": None if predicted_s is None else "cost model: corrected sum of operators",
            **({"emulated_counts": dict(timing.counts)} if timing and timing.counts else {}),
        },
        "verification": asdict(verification) if verification else None,
        "kernels": list(built.kernels),
        "fallbacks": list(built.fallbacks),
        "files": {
            name: sha256(built.folder / name)
            for name in (LIBRARY, MODEL, REFERENCE, *PLAIN_C)
            if (built.folder / name).exists()
        },
    }
    write_json(built.folder / MANIFEST, manifest)
    return manifest


def _how(runs: int, target: Target) -> str:
    if target.runner == EMULATED:
        return f"one inference under {' '.join(target.emulator)}; a count, and no time"
    via = "" if target.runner == LOCAL else f" by {target.runner}"
    return f"median of {runs} runs back to back on {target.cpu_model}{via}"


def versions() -> dict[str, str]:
    """The installed versions that a result depends on."""
    return {name: version(name) for name in ("netlathe", "apache-tvm", "torch", "onnx", "xgboost")}
