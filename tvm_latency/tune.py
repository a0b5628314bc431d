"""Choose tiles by measuring: the analytic choice of each kernel against the next best few, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from targets.runner import Failure, Job, Runner
from targets.target import Target
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.kernel_library import build_kernels, parameter_shapes, parameter_types
from tvm_latency.lower import LoweringError
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import Kernel, Spec
from tvm_latency.schedules.tiles import Tile

# Builds a library of these kernels, each a function of its key, at this path; raises LoweringError where it cannot.
BuildKernels = Callable[[Mapping[str, Kernel], Target, Path], Path]
# (stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]

STAGE = "tune kernels"
# An alternative has to save this share of the analytic choice's median: medians of one kernel differ by 1-2 % when
# nothing but the moment does.
GAIN = 0.03


@dataclass(frozen=True, kw_only=True)
class TuneSettings:
    """How kernels are timed: the tiles of `batch` kernels are built together and run in turns by one process.

    Each tile has `rounds` turns of `warmup` calls and `repeats` timed ones. A turn allocates its tensors anew: a kernel
    may take half as long again where they happen to lie badly, and the median over turns is what a network can expect.
    """

    rounds: int = 8
    repeats: int = 12
    warmup: int = 3
    batch: int = 4


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The tile of a kernel, and the median seconds of it and of the analytic choice; equal where that one stays."""

    tile: str
    seconds: float
    analytic_s: float


def choose(samples_s: Mapping[str, Sequence[float]]) -> Choice | None:
    """The fastest tile by median if it saves more than noise, else the analytic choice, which stands first.

    samples_s: seconds by tile; empty for one that failed. None where the analytic choice itself failed: there is
    nothing to compare with, and it stays.
    """
    medians = {tile: median(samples) for tile, samples in samples_s.items() if samples}
    analytic = next(iter(samples_s))
    if analytic not in medians:
        return None
    best = min(medians, key=lambda tile: medians[tile])
    tile = best if medians[best] < (1 - GAIN) * medians[analytic] else analytic
    return Choice(tile=tile, seconds=medians[tile], analytic_s=medians[analytic])


def tune(
    specs: Sequence[Spec],
    target: Target,
    *,
    runner: Runner,
    database: MeasurementDatabase,
    versions: tuple[int, str],
    workspace: Path,
    progress: Progress,
    build: BuildKernels = build_kernels,
    settings: TuneSettings | None = None,
) -> dict[str, Choice]:
    """What the database says of each kernel's tiles, once what it lacks is measured: kernel -> its choice.

    A kernel without tiles, as the fused ones are, is none to choose for. Every other is timed in the caches it left
    itself. Each sample is committed as it comes, and a kernel of which all tiles have a row is never timed again: the
    choice that measurements of whole operators rest on stays.

    Args:
        target: `alternatives` says how many tiles of a kernel are compared, the analytic choice among them.
        versions: of the schedules and of TVM; with the target's fingerprint they decide which rows count.
        workspace: folder for shared libraries, each removed once it is measured.

    Raises:
        RunnerError: this machine cannot run code for the target.
        DatabaseError: a row cannot be written or read.
        ToolchainError: nothing here links for the target.
    """
    settings = settings or TuneSettings()
    context = Context(target.fingerprint, *versions, evict_bytes=0)
    analytic = target.with_tiles(target.alternatives)
    kernels = {k.name: (spec, k) for spec in specs if (k := schedule_kernel(spec, analytic)) is not None}
    tiles = {name: k.tiles[: target.alternatives] for name, (_, k) in kernels.items() if len(k.tiles) > 1}
    rows = {name: [row_key(name, tile.text) for tile in of_kernel] for name, of_kernel in tiles.items()}
    pending = [name for name in tiles if any(database.find(key, context) is None for key in rows[name])]
    for start in range(0, len(pending), settings.batch):
        progress(STAGE, len(tiles) - len(pending) + start, len(tiles), {})
        batch: dict[str, Kernel] = {}
        for name in pending[start : start + settings.batch]:
            for key, tile in zip(rows[name], tiles[name]):
                kernel = schedule_kernel(kernels[name][0], analytic, tile)
                assert kernel is not None, "a kind takes a spec with one tile and not with another"
                batch[key] = kernel
        with TemporaryDirectory(dir=workspace) as folder:
            _measure(batch, analytic, Path(folder) / "kernels.so", runner, database, context, build, settings)
    progress(STAGE, len(tiles), len(tiles), {})
    found = {name: choose(_samples(name, tiles[name], database, context)) for name in tiles}
    return {name: choice for name, choice in found.items() if choice is not None}


def row_key(kernel: str, tile: str) -> str:
    """`tile:` with the kernel and the tile: the name of a timing in the database."""
    return f"tile:{kernel}:{tile}"


def _samples(
    name: str, tiles: Sequence[Tile], database: MeasurementDatabase, context: Context
) -> dict[str, Sequence[float]]:
    rows = {tile.text: database.find(row_key(name, tile.text), context) for tile in tiles}
    return {tile: (row.samples_s if row else None) or () for tile, row in rows.items()}


def _measure(
    kernels: Mapping[str, Kernel],
    target: Target,
    library: Path,
    runner: Runner,
    database: MeasurementDatabase,
    context: Context,
    build: BuildKernels,
    settings: TuneSettings,
) -> None:
    """Build, time and record the kernels, given by their keys."""
    functions = {f"f{i}": kernel for i, kernel in enumerate(kernels.values())}
    try:
        build(functions, target, library)
    except LoweringError as error:
        for key in kernels:
            database.add(key, context, failure=str(error))
        return
    jobs = [
        Job(
            key=key,
            module=library,
            function=function,
            input_shapes=parameter_shapes(kernels[key])[:-1],
            input_types=parameter_types(kernels[key])[:-1],
            repeats=settings.repeats,
            warmup=settings.warmup,
        )
        for key, function in zip(kernels, functions)
    ]
    for result in runner.run(jobs, settings.rounds):
        if isinstance(result, Failure):
            database.add(result.key, context, failure=result.reason)
        else:
            database.add(result.key, context, samples_s=result.samples_s)
