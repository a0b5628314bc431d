"""The commands that are not a run: each calls the function of the same name in `pipeline.api`, and prints.

Those of artefacts are called where `pipeline.api` has them from: without what a search needs they begin in half the
time.
"""

# ruff: noqa: A001  (commands and options are named as users type them)
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from pipeline import console, options
from pipeline.errors import ExitCode

# Both are imported where they are used: torch and TVM take seconds to load, and `--help` needs neither.


def calibrate(
    target: options.Target = "x86",
    runner: options.Runner = None,
    space: options.Space = "imagenet",
    resolution: options.Resolution = None,
    width: options.Width = None,
    threads: options.Threads = 1,
    weights: options.Weights = None,
    dtype: options.Dtype = "float32",
    from_: options.From = None,
    measurements: options.Measurements = None,
    export: options.Export = None,
    imported: options.Import = None,
    database: options.Database = None,
    json: options.Json = False,
) -> None:
    """Measure a search space on a target, fit the cost model, and print how accurate it is on unseen networks."""
    from pipeline import api

    with console.ProgressView() as progress:
        found = api.calibrate(
            options.at(target, runner),
            space,
            resolution=resolution,
            width=width or 1.0,
            threads=threads,
            weights=weights,
            dtype=dtype,
            source=from_,
            measurements=measurements,
            export=export,
            imported=imported,
            database=database,
            progress=progress,
            say=console.say,
        )
    if json or imported:
        console.show(found, as_json=json)
        return
    blocks, model, table, baselines = (found.pop(name) for name in ("blocks", "model", "networks", "baselines"))
    console.show(found, as_json=False)
    scores = {
        "latency table": table,
        "cost model alone": model,
        **{f"baseline: {name.replace('_', ' ')}": score for name, score in baselines.items()},
        **({"cost model, operators it has not seen": blocks} if blocks else {}),
    }
    console.show_table("Predictions of what was not fitted", [{"by": name, **score} for name, score in scores.items()])


def predict(
    net: options.Net,
    target: options.Target = "x86",
    runner: options.Runner = None,
    space: options.RunSpace = None,
    resolution: options.Resolution = None,
    width: options.Width = None,
    threads: options.Threads = 1,
    weights: options.Weights = None,
    dtype: options.Dtype = "float32",
    explain: options.Explain = False,
    database: options.Database = None,
    json: options.Json = False,
) -> None:
    """Predict the latency of a network from a calibration, without compiling it."""
    from pipeline import api

    found = api.predict(
        net,
        options.at(target, runner),
        space=space,
        resolution=resolution,
        width=width or 1.0,
        threads=threads,
        weights=weights,
        dtype=dtype,
        explain=explain,
        database=database,
    )
    blocks = [] if json else found.pop("blocks", [])
    console.show(found, as_json=json)
    if blocks:
        console.show_table(f"{found['net']}, operator by operator", blocks)


def train(
    ctx: typer.Context,
    net: options.Net,
    data: options.Data,
    resolution: options.NetResolution = None,
    recipe: options.Recipe = "short",
    epochs: options.Epochs = None,
    ema: options.Ema = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Train a network. Stopped and started again with the same options, it goes on from its checkpoint."""
    from pipeline import api

    ctx.find_root().meta[options.RESUME_KEY] = "the same command"
    with console.ProgressView() as progress:
        found = api.train(
            net,
            data,
            out=out,
            resolution=resolution,
            recipe=recipe,
            epochs=epochs,
            ema=ema or 0.0,
            seed=seed,
            progress=progress,
            say=console.say,
        )
    console.show(found, as_json=json)


def compile(
    net: options.Net,
    target: options.Target = "x86",
    runner: options.Runner = None,
    out: options.Out = None,
    data: options.RunData = None,
    resolution: options.NetResolution = None,
    classes: options.Classes = None,
    threads: options.Threads = 1,
    weights: options.Weights = None,
    dtype: options.Dtype = "float32",
    tune_fallback: options.TuneFallback = 0,
    count: options.Count = False,
    database: options.Database = None,
    json: options.Json = False,
) -> None:
    """Compile a network, verify it against PyTorch, measure it, and leave the artefact in --out."""
    from pipeline import artefacts

    with console.ProgressView() as progress:
        found = artefacts.compile(
            net,
            options.at(target, runner),
            out,
            data=data,
            resolution=resolution,
            classes=classes,
            threads=threads,
            weights=weights,
            dtype=dtype,
            tune_fallback=tune_fallback,
            count=count,
            database=database,
            progress=progress,
            say=console.say,
        )
    console.show(found, as_json=json)


def bench(
    nets: options.Nets,
    target: options.Target = "x86",
    against: options.Against = "onnxruntime",
    resolution: options.NetResolution = None,
    classes: options.Classes = None,
    threads: options.Threads = 1,
    weights: options.Weights = None,
    dtype: options.Dtype = "float32",
    json: options.Json = False,
) -> None:
    """Time networks on several runtimes in turn, in pinned processes."""
    from pipeline import artefacts

    found = artefacts.bench(
        nets,
        target,
        against,
        resolution=resolution,
        classes=classes,
        threads=threads,
        weights=weights,
        dtype=dtype,
    )
    if json:
        console.show(found, as_json=True)
        return
    for net in found["nets"]:
        console.show_table(f"{net['net']} on {target}, {threads} thread(s)", net["results"])
        if net["best_peer"]:
            console.result_line(f"{net['speedup_over_best_peer']:.3f} times as fast as {net['best_peer']}")


def report(run: options.RunFolder, json: options.Json = False) -> None:
    """Write report.html of a finished run again."""
    from pipeline import artefacts

    console.show(artefacts.report(run), as_json=json)


def targets(json: options.Json = False) -> None:
    """List the machines that networks can be compiled for."""
    from pipeline import artefacts

    found = artefacts.targets()
    if json:
        console.show(found, as_json=True)
        return
    for target in found:
        facts = target.get("unavailable") or (
            f"{target['cpu_model']}, {target['mcpu']}, {target['vector_bits']}-bit vectors, {target['cores']} cores"
        )
        console.result_line(f"{target['name']:<12} {facts}")


def doctor(json: options.Json = False) -> None:
    """Check that this machine has what Netlathe needs."""
    from pipeline.doctor import examine

    checks = []
    for check in examine(Path.cwd()):
        checks.append(check)
        if not json:
            console.result_line(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<18} {check.text}")
    if json:
        console.show([asdict(check) for check in checks], as_json=True)
    if not all(check.ok for check in checks):
        raise typer.Exit(ExitCode.TARGET)
