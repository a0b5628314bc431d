"""`compile`, `bench`, `report` and `targets` as functions; `pipeline.api` has them with the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pipeline import deploy, verify
from pipeline.agreement import (
    ANSWER,
    Images,
    Verification,
    cause_of_difference,
    compare,
    onnx_reference,
    random_image,
    tolerance,
    write_answer,
)
from pipeline.bench import CALLS, ROUNDS, BenchEntry, compare_runtimes, time_interleaved
from pipeline.config import weight_type
from pipeline.files import read_json, write_atomically
from pipeline.machine import find_machine
from pipeline.measure import MeasureError, counts_of, measure_files, require_runnable, what_runs
from pipeline.nets import Net, input_shape_of, resolve_net, space_of
from pipeline.places import calibration_folder, default_database
from pipeline.plain_c import on_the_machine, self_test, write_plain_c
from pipeline.run_folder import RESULT, RunFolderError, claim_folder
from pipeline.runtimes import BenchModel, find_peers
from supernet.data import load_data
from supernet.network import Network
from supernet.settings import Progress
from supernet.space import SpaceError
from supernet.train import load_network
from targets.emulator import launcher
from targets.registry import TARGETS, get_target
from targets.runner import Timing
from targets.runners import find_runner
from targets.target import AWAY, EMULATED, DType, Target, TargetError
from tvm_latency.fallback import FallbackSettings, tune_fallbacks
from tvm_latency.loaded import LoadedNetwork
from tvm_latency.lower import Lowered
from tvm_latency.opspec import WeightType, stored_as

RANDOM_IMAGES, REAL_IMAGES = 4, 100


def silent(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    """Progress that nobody looks at."""


def compile(  # noqa: A001  (the command's name; the builtin is not used here)
    net: str,
    target: str = "x86",
    out: Path | None = None,
    *,
    data: str | None = None,
    resolution: int | None = None,
    classes: int | None = None,
    threads: int = 1,
    weights: WeightType | None = None,
    dtype: DType = "float32",
    tune_fallback: int = 0,
    count: bool = False,
    database: Path | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = print,
    seed: int = 0,
) -> dict[str, Any]:
    """Compile, verify, measure: the content of manifest.json, with the artefact's `folder`.

    What is for another machine is measured there if the target says how (`android-arm64@adb`), where netbench tests
    itself, too; else it is verified by one image under an emulator, where one is installed.

    count: have the emulator count what one inference executes, which takes some times as long.

    data: verify on its test images instead of random ones.
    resolution, classes: instead of the network's own, where it has no weights yet.
    weights: how the library stores them, as dtype unless given; dtype: what it computes in. The reference it is
    verified against has the network's own weights and computes in float32.
    tune_fallback: trials of MetaSchedule for each operator that none of our kernels covers.

    Raises:
        LoweringError: an operator that cannot be compiled, weights that the type cannot hold, or not one float32 image
            in and one tensor out.
        RunFolderError: `out` holds anything but an earlier artefact.
        RunnerError: this machine cannot run code for the target.
        VerifyError: the result differs from the reference by more than rounding explains.
    """
    machine, weights = find_machine(target, threads, dtype), weight_type(weights, dtype)
    here = machine.in_process
    if count and machine.runner != EMULATED:
        raise TargetError(f"--count has an emulator count instructions, and none counts for {target}. Leave it out.")
    measured = machine.runner not in (EMULATED, AWAY)
    if measured or count:
        require_runnable(machine)
    if tune_fallback and not here:
        raise TargetError(f"--tune-fallback measures, and {target} is another machine. Leave it out.")
    found = resolve_net(net).for_task(resolution, classes).of_batch(machine.batch)
    shape = input_shape_of(found.model)
    folder = out or Path(f"{found.name}-{machine.file_name}")
    claim_folder(folder, "compile")
    network = _network(found)
    against = "the ONNX reference" if network is None else "PyTorch"
    reference = onnx_reference(found.model) if network is None else verify.pytorch(network)
    allowed, cause = tolerance(found.model, weights, dtype), cause_of_difference(weights, dtype)
    built = deploy.build(
        found.model,
        machine,
        folder,
        weights,
        finish=_with_fallbacks(machine, tune_fallback, progress, say),
        also=lambda made: write_plain_c(made, folder, found.name, reference, allowed, say),
    )
    images = _images(shape, data, seed)
    verification: Verification | None
    timing: Timing | None = None
    if here:
        compiled = LoadedNetwork(built.library)
        if network is not None and (weights, dtype) == ("float16", "float32"):
            verify.check_half_weights(compiled, network, images, tolerance(found.model))
        verification = compare(compiled, reference, images, against, allowed, cause)
        self_test(folder, machine, against, weights)
    else:
        verification = self_test(folder, machine, against, weights)
    if measured:
        answers = {}
        if not here and find_runner(machine).form == "library":
            write_answer(folder / ANSWER, reference, found.model, allowed)
            answers = {found.name: folder / ANSWER}
        timing = measure_files({found.name: what_runs(folder, machine)}, shape, machine, answers)[found.name]
        verification = on_the_machine(timing, against, machine) or verification
    elif count:
        timing = counts_of(what_runs(folder, machine), machine)
    elif verification is None:
        say(f"Nothing was verified: {_cannot_verify(machine)}")
    deploy.write_reference(built.folder, images[0], reference)
    predicted_s = _predicted_s(found, machine, weights, database)
    manifest = deploy.write_manifest(built, machine, verification, timing, predicted_s)
    return {"folder": str(built.folder), **manifest}


def _cannot_verify(machine: Target) -> str:
    if launcher(machine) is None:
        would = f" ({machine.emulator[0]} would)" if machine.emulator else ""
        return f"nothing here runs code for {machine.name}{would}. Run netbench on the machine."
    return "without netbench nothing of it can be run here. Compare model.so with reference.npz on the machine."


def _with_fallbacks(
    target: Target, trials: int, progress: Progress, say: Callable[[str], None]
) -> Callable[[Lowered], Lowered] | None:
    """What `deploy.build` does between lowering and compiling: so many trials for what no kind covers, or nothing."""
    if not trials:
        return None
    settings = FallbackSettings(trials=trials)
    return partial(tune_fallbacks, target=target, settings=settings, progress=progress, say=say)


def _network(net: Net) -> Network | None:
    """The network in PyTorch, which a compiled one is compared with; None where it came as an .onnx file."""
    if net.architecture is None:
        return None
    if net.weights is None:
        return verify.random_network(net.architecture)
    return load_network(net.architecture, net.weights)


def _images(shape: tuple[int, ...], data: str | None, seed: int) -> list[Images]:
    if data is None:
        return [random_image(shape, seed + i) for i in range(RANDOM_IMAGES)]
    return verify.real_images(load_data(data, shape[-1], seed).test, REAL_IMAGES, shape[0])


def _predicted_s(net: Net, target: Target, weights: WeightType, database: Path | None = None) -> float | None:
    """Seconds by the calibration of the network's space; None without an architecture or a calibration that holds."""
    if net.architecture is None:
        return None
    try:
        space = space_of(net.architecture.resolution)
    except SpaceError:
        return None
    folder = calibration_folder(database or default_database(), target, space, weights)
    if not folder.exists():
        return None
    from pipeline.saved_calibration import load_calibration  # what models need takes seconds to load
    from tvm_latency.cost_model import CostModelError
    from tvm_latency.latency_table import LatencyTableError

    ops = stored_as(net.architecture.op_specs(), weights, target.batch)
    try:
        table, model = load_calibration(folder, target, weights)
    except (MeasureError, CostModelError, LatencyTableError):
        return None
    return table.completed(ops, model.predict).network_seconds(ops)


def bench(
    nets: Sequence[str],
    target: str = "x86",
    against: str = "onnxruntime",
    *,
    resolution: int | None = None,
    classes: int | None = None,
    threads: int = 1,
    weights: WeightType | None = None,
    dtype: DType = "float32",
    rounds: int = ROUNDS,
    calls: int = CALLS,
) -> dict[str, Any]:
    """Time each network on our runtime and on others, in turn, in pinned processes.

    against: comma-separated names of runtimes; empty to time ours alone.
    resolution, classes: as for `compile`.
    weights, dtype: how our library stores them, and what it computes in; the other runtimes have float32.

    Raises:
        RuntimeUnavailableError: a runtime is unknown or not installed.
        TargetError: the target is another machine.
        RunnerError: this machine cannot run code for the target.
        BenchError: the runtimes do not compute the same, or the timing failed.
    """
    peers, machine = find_peers(against), find_machine(target, threads, dtype)
    weights = weight_type(weights, dtype)
    if not machine.in_process:
        raise TargetError(
            f"`bench` times runtimes that are installed here, and {target} is another machine. `netlathe compile` "
            "measures ours there, with --runner."
        )
    require_runnable(machine)
    names = ["netlathe", *(peer.name for peer in peers)]
    tables = []
    for net in (resolve_net(name).for_task(resolution, classes).of_batch(machine.batch) for name in nets):
        with TemporaryDirectory() as folder:
            model = _bench_model(net, machine, Path(folder), weights, "torch" in names)
            entries = [BenchEntry(net.name, name, model) for name in names]
            timings = time_interleaved(entries, input_shape_of(net.model), threads, rounds=rounds, calls=calls)
        macs = net.architecture.macs if net.architecture else None
        tables.append({"net": net.name, "macs": macs, **compare_runtimes(timings)})
    return {"target": target, "threads": threads, "weights": weights, "dtype": dtype, "nets": tables}


def _bench_model(net: Net, target: Target, folder: Path, stored: WeightType, for_pytorch: bool) -> BenchModel:
    """The network in every form that the runtimes load."""
    built = deploy.build(net.model, target, folder, stored)
    weights = net.weights
    if for_pytorch and weights is None and net.architecture is not None:
        weights = folder / "weights.pt"
        verify.save_weights(verify.random_network(net.architecture), weights)
    return BenchModel(
        onnx_file=str(folder / deploy.MODEL),
        library=str(built.library),
        architecture=net.architecture.text if net.architecture else "",
        weights=str(weights) if weights and for_pytorch else "",
        stored=stored,
        dtype=target.dtype,
    )


def report(run: Path) -> dict[str, Any]:
    """Write report.html of a finished run again: its path as `report`.

    Raises:
        RunFolderError: a stage has no result yet.
    """
    from pipeline.report import render
    from pipeline.stages import STAGES

    results = {}
    for stage in STAGES:
        path = run / stage / RESULT
        content = read_json(path) if path.exists() else None
        if content is None and stage != "report":
            raise RunFolderError(
                f"{run} has no result of stage {stage}: it is not a run folder, or the run is not finished. "
                f"`netlathe run --resume --out {run}` goes on with it."
            )
        results[stage] = content or {}
    write_atomically(run / "report.html", render(results).encode())
    return {"report": str(run / "report.html")}


def targets() -> list[dict[str, Any]]:
    """What is known of every target; one that this machine cannot be has a sentence under `unavailable` instead."""
    return [_describe(name) for name in TARGETS]


def _describe(name: str) -> dict[str, Any]:
    try:
        found = get_target(name)
    except TargetError as error:
        return {"name": name, "unavailable": str(error)}
    sizes: Iterable[str] = ("vector_bits", "vector_registers", "l1d_bytes", "l2_bytes", "l3_bytes", "cores")
    return {
        "name": name,
        "kind": found.kind,
        "mcpu": found.mcpu,
        "cpu_model": found.cpu_model,
        **{size: getattr(found, size) for size in sizes},
        "dtypes": list(found.dtypes),
        "fingerprint": found.fingerprint,
    }
