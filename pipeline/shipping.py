"""The stages that ship the derived network: train, export, compile, verify, bench, deploy, report."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import copy
from statistics import median
from typing import Any

import onnx

from pipeline import deploy as deployment
from pipeline.agreement import ANSWER, Verification, cause_of_difference, compare, tolerance, write_answer
from pipeline.bench import BenchEntry, BenchTiming, speedup, time_interleaved
from pipeline.config import ALSO
from pipeline.context import MeasuredAndBudget, Result, RunContext
from pipeline.files import write_atomically, write_json
from pipeline.measure import measure_files, what_runs
from pipeline.plain_c import PLAIN_C, on_the_machine, self_test, write_plain_c
from pipeline.report import render
from pipeline.runtimes import BenchModel
from pipeline.verify import check_half_weights, pytorch, real_images
from supernet import train as training
from supernet.derive import BudgetError
from supernet.export import export_onnx
from supernet.network import Network
from supernet.settings import RecipeName, TrainSettings, recipe
from targets.runner import Timing
from targets.runners import find_runner
from targets.target import Target
from targets.unit import MILLISECONDS, Unit
from tvm_latency.compiled import CompiledNetwork
from tvm_latency.loaded import LoadedNetwork
from tvm_latency.onnx_graph import with_batch

REPORT = "report.html"
VERIFIED_IMAGES = 1000
# How often the network that ships is measured, at most, before it counts as over the budget.
MEASUREMENTS = 3


def train(context: RunContext, folder: Path) -> Result:
    """Train the derived network and the baseline, with the same recipe.

    Raises:
        TrainError: a training diverged.
        CheckpointError: a checkpoint is not its own.
    """
    config = context.config
    settings = train_settings(config.recipe, context.space.resolution, config.seed, config.train_epochs, config.ema)
    result = {}
    for role, net in context.networks.items():
        found = training.train(
            net, context.data, settings, folder / f"{role}.checkpoint", context.progress, notice=context.say
        )
        result[role] = {"top1": found.top1, "seconds": found.seconds, "history": found.history}
    return result


def train_settings(name: RecipeName, resolution: int, seed: int, epochs: int | None, ema: float = 0.0) -> TrainSettings:
    """The settings of a recipe for images of so many pixels, with other epochs where some are given."""
    settings = replace(recipe(name, resolution).train, seed=seed, ema=ema)
    if epochs is None:
        return settings
    return replace(settings, epochs=epochs, warmup_epochs=min(settings.warmup_epochs, epochs - 1))


def export(context: RunContext, folder: Path) -> Result:
    """ONNX models of both networks, batch norm folded."""
    for role, net in context.networks.items():
        network = training.load_network(net, context.folder / "train" / f"{role}.weights.pt")
        export_onnx(network, net, folder / f"{role}.onnx")
    return {role: f"{role}.onnx" for role in context.networks}


def compile(context: RunContext, folder: Path) -> Result:  # noqa: A001  (the stage's name; the builtin is not used here)
    """Compile both with their trained weights, and measure what ships: both libraries, in turns, on every target.

    Raises:
        LoweringError, ToolchainError, MeasureError: it cannot be compiled, linked or run.
        BudgetError: the trained network is measured over the budget, however often.
    """
    result = context.for_each(partial(_built, context))
    # A bundle would be read as often, and say the same, and so would an emulator.
    runners = [find_runner(target) for target in context.targets]
    most = MEASUREMENTS if all(runner.at_once and not runner.exact for runner in runners) else 1
    for number in range(1, most + 1):
        measured: dict[str, MeasuredAndBudget] = {}
        for target in context.targets:
            found = result if target.name == context.config.target else result[ALSO][target.name]
            measured[target.name] = _measure(context, target, found)
        if all(took_s <= allowed_s for took_s, allowed_s in context.measured_budgets(measured)):
            return {**result, "measurements": number}
    pairs = ((target, *measured[target.name]) for target in context.targets)
    times = [f"{1e3 * took_s:.4g} of {on.unit.text(allowed_s)} on {on.name}" for on, took_s, allowed_s in pairs]
    of_all = f", with the shares {context.config.shares}" if context.config.shares else ""
    raise BudgetError(
        f"The trained network is over the budget in each of {most} measurements ({', '.join(times)}{of_all}); before "
        f"its training it was within. Every file is kept: `netlathe run --resume --out {context.folder}` measures again"
        + ("." if most > 1 else ", if the folder of its bundle is removed first.")
    )


def _built(context: RunContext, target: Target) -> Result:
    """Both networks, compiled for a target."""
    result: Result = {}
    form, weights, dtype = find_runner(target).form, context.config.weights, target.dtype
    for role in context.networks:
        model = with_batch(onnx.load(context.folder / "export" / f"{role}.onnx"), target.batch)
        folder = context.place("compile", target) / role
        also = partial(_plain_c, context, role, folder, model) if role == "winner" or form != "library" else None
        built = deployment.build(model, target, folder, weights, also=also)
        if form == "library" and not target.in_process:
            write_answer(folder / ANSWER, pytorch(_trained(context, role)), model, tolerance(model, weights, dtype))
        result[role] = {"kernels": list(built.kernels), "fallbacks": list(built.fallbacks)}
        for name in built.fallbacks:
            context.say(f"No kernel of ours covers {name} of the {role}: it runs TVM's default loops.")
    return result


def _plain_c(context: RunContext, role: str, folder: Path, model: onnx.ModelProto, compiled: CompiledNetwork) -> None:
    allowed = tolerance(model, context.config.weights, context.config.dtype)
    reference = pytorch(_trained(context, role))
    write_plain_c(compiled, folder, context.networks[role].name, reference, allowed, context.say)


def _trained(context: RunContext, role: str) -> Network:
    return training.load_network(context.networks[role], context.folder / "train" / f"{role}.weights.pt")


def _measure(context: RunContext, target: Target, result: Result) -> MeasuredAndBudget:
    """Put what both take on a target into the result of `_built`; seconds of the derived one, and of its budget."""
    resolution = context.space.resolution
    folders = {role: context.place("compile", target) / role for role in context.networks}
    files = {role: what_runs(folder, target) for role, folder in folders.items()}
    answers = {role: folder / ANSWER for role, folder in folders.items() if (folder / ANSWER).exists()}
    for role, timing in measure_files(files, (target.batch, 3, resolution, resolution), target, answers).items():
        result[role] |= {"measured_s": median(timing.samples_s), "samples_s": timing.samples_s}
        result[role] |= {"counts": dict(timing.counts)} if timing.counts else {}
        if found := on_the_machine(timing, "PyTorch", target):
            result[role]["verification"] = asdict(found)
    result["budget_s"] = context.config.parsed_budget.seconds(result["baseline"]["measured_s"], target)
    return result["winner"]["measured_s"], result["budget_s"]


def verify(context: RunContext, folder: Path, target: Target) -> Result:
    """The compiled network against PyTorch, on real test images.

    On another machine netbench has compared its output itself, for the one image that it has inside.

    Raises:
        VerifyError: they differ by more than rounding explains.
    """
    network = _trained(context, "winner")
    images = real_images(context.data.test, VERIFIED_IMAGES, target.batch)
    built = context.place("compile", target) / "winner"
    if not target.in_process:
        deployment.write_reference(folder, images[0], pytorch(network))
        return context.result("compile", target)["winner"]["verification"]  # type: ignore[no-any-return]
    compiled, weights, dtype = LoadedNetwork(built / deployment.LIBRARY), context.config.weights, target.dtype
    model = onnx.load(built / deployment.MODEL)
    if (weights, dtype) == ("float16", "float32"):
        check_half_weights(compiled, network, images, tolerance(model))
    allowed, cause = tolerance(model, weights, dtype), cause_of_difference(weights, dtype)
    verification = compare(compiled, pytorch(network), images, "PyTorch", allowed, cause)
    self_test(built, target, "PyTorch", weights)
    deployment.write_reference(folder, images[0], pytorch(network))
    return asdict(verification)


def bench(context: RunContext, folder: Path, target: Target) -> Result:
    """The derived network, the baseline, and ONNX Runtime running the derived network, timed in turn.

    Raises:
        BenchError: the timing failed, or ONNX Runtime computes something else.
    """
    if not target.in_process:
        return _bench_elsewhere(context, target)
    wanted = [("winner", "netlathe"), ("baseline", "netlathe"), ("winner", "onnxruntime")]
    if find_spec("onnxruntime") is None:
        context.say("ONNX Runtime is not installed, so it is not compared: `pip install onnxruntime`.")
        wanted.pop()
    entries = [BenchEntry(role, runtime, _bench_model(context, role, target)) for role, runtime in wanted]
    resolution = context.space.resolution
    timings = time_interleaved(entries, (target.batch, 3, resolution, resolution), context.config.threads)
    ours, *others = timings
    return {
        "runs": [_bench_row(context, timing) for timing in timings],
        "speedups": {_label(context, other): speedup(ours, other) for other in others},
    }


def _bench_elsewhere(context: RunContext, target: Target) -> Result:
    """Ours alone, as they were measured when they were compiled: other runtimes are not installed there."""
    found = context.result("compile", target)
    timings = [BenchTiming(role, "netlathe", (tuple(found[role]["samples_s"]),)) for role in ("winner", "baseline")]
    ours, baseline = timings
    return {
        "runs": [_bench_row(context, timing, target.unit) for timing in timings],
        "speedups": {_label(context, baseline): speedup(ours, baseline)},
    }


def _bench_model(context: RunContext, role: str, target: Target) -> BenchModel:
    built = context.place("compile", target) / role
    onnx_file, library = str(built / deployment.MODEL), str(built / deployment.LIBRARY)
    return BenchModel(onnx_file=onnx_file, library=library, stored=context.config.weights, dtype=target.dtype)


def _label(context: RunContext, timing: BenchTiming) -> str:
    return f"{timing.runtime}: {context.networks[timing.net].name}"


def _bench_row(context: RunContext, timing: BenchTiming, unit: Unit = MILLISECONDS) -> dict[str, Any]:
    return {"name": _label(context, timing), **timing.summary(unit), "samples_s": timing.samples_s}


def deploy(context: RunContext, folder: Path, target: Target) -> Result:
    """Put the artefact together, its manifest last."""
    compiled, built = context.result("compile", target)["winner"], context.place("compile", target) / "winner"
    sources = [built / name for name in (deployment.LIBRARY, deployment.MODEL, *PLAIN_C) if (built / name).exists()]
    for source in (*sources, context.place("verify", target) / deployment.REFERENCE):
        copy(source, folder / source.name)
    return deployment.write_manifest(
        deployment.Build(folder, tuple(compiled["kernels"]), tuple(compiled["fallbacks"]), context.config.weights),
        target,
        Verification(**context.result("verify", target)),
        Timing("winner", tuple(compiled["samples_s"]), counts=compiled.get("counts", {})),
        context.result("derive", target)["predicted_s"],
    )


def report(context: RunContext, folder: Path) -> Result:
    """Write `report.html`; the result is what `summary.json` says. `publish` puts both where people look."""
    write_atomically(folder / REPORT, render(context.results).encode())
    return summarise(context)


def publish(context: RunContext) -> None:
    """Put `summary.json` and `report.html` at the top of the run folder, also where somebody has deleted them."""
    write_atomically(context.folder / REPORT, (context.folder / "report" / REPORT).read_bytes())
    write_json(context.folder / "summary.json", context.results["report"])


def summarise(context: RunContext) -> Result:
    """What `summary.json` says; latencies in milliseconds, or what an emulator counted in millions."""
    return context.for_each(partial(_summary, context))


def _summary(context: RunContext, target: Target) -> Result:
    """The same for every target, of which some is that of the run."""
    calibrated, derived, shipped, verification, deployed = (
        context.result(stage, target) for stage in ("calibrate", "derive", "compile", "verify", "deploy")
    )
    baseline, search, train = (context.results[stage] for stage in ("baseline", "search", "train"))
    measured_s, baseline_s = shipped["winner"]["measured_s"], shipped["baseline"]["measured_s"]
    place, unit = context.place("deploy", target).relative_to(context.folder), target.unit
    return {
        "target": target.name,
        "weights": context.config.weights,
        "dtype": context.config.dtype,
        f"budget_{unit.key}": 1e3 * shipped["budget_s"],
        f"predicted_{unit.key}": 1e3 * derived["predicted_s"],
        unit.measured_key: 1e3 * measured_s,
        "rederivations": context.results["derive"]["rederivations"],
        "search_seconds": search["seconds"],
        "calibrate_seconds": calibrated["seconds"],
        "train_seconds": train["winner"]["seconds"] + train["baseline"]["seconds"],
        "architecture": context.results["derive"]["architecture"],
        "top1": train["winner"]["top1"],
        "baseline": {
            "net": baseline["net"],
            unit.measured_key: 1e3 * baseline_s,
            "top1": train["baseline"]["top1"],
        },
        unit.gain_key: baseline_s / measured_s,
        "cost_model": calibrated["cost_model"],
        "verify": {name: verification[name] for name in ("max_abs_error", "top1_agreement")},
        "artefacts": {name: str(place / name) for name in (*deployed["files"], deployment.MANIFEST)},
    }
