"""`netlathe`: the application, its two commands that make a run, and where errors become exit codes."""

from __future__ import annotations

import shlex
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline import commands, console, options
from pipeline.config import ALSO, ConfigError, RunConfig, make_config, parse_shares
from pipeline.errors import ExitCode, exit_code, expected_errors, sentence
from pipeline.places import RUNS
from pipeline.run_folder import default_folder, stored_config
from targets.unit import UNITS


class _Commands(TyperGroup):
    """Errors of the table become a sentence and an exit code; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: Any) -> Any:
        meta = ctx.find_root().meta
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            resume = meta.get(options.RESUME_KEY)
            text, code = f"Stopped. To go on: {resume}" if resume else "Stopped.", ExitCode.INTERRUPTED
        except expected_errors() as error:
            text, code = sentence(error), exit_code(error)
        console.fail(text, code, as_json=meta.get(options.JSON_KEY, False))
        raise typer.Exit(code)


app = typer.Typer(
    cls=_Commands,
    help="Hardware-aware neural architecture search that ends in a binary.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    ctx: typer.Context,
    target: options.RunTargets = None,
    runner: options.Runner = None,
    shares: options.Shares = None,
    data: options.RunData = None,
    budget: options.Budget = None,
    budget_ms: options.BudgetMs = None,
    space: options.RunSpace = None,
    resolution: options.Resolution = None,
    width: options.Width = None,
    recipe: options.RunRecipe = None,
    algorithm: options.Algorithm = None,
    penalty: options.Penalty = None,
    max_params: options.MaxParams = None,
    max_memory_kb: options.MaxMemory = None,
    seed: options.RunSeed = None,
    threads: options.RunThreads = None,
    weights: options.RunWeights = None,
    dtype: options.RunDtype = None,
    search_epochs: options.SearchEpochs = None,
    train_epochs: options.TrainEpochs = None,
    ema: options.Ema = None,
    out: options.Out = None,
    resume: options.Resume = False,
    database: options.Database = None,
    json: options.Json = False,
) -> None:
    """From data and a latency budget to a compiled network with proof: everything in one command."""
    _run(ctx, "report")


@app.command()
def search(
    ctx: typer.Context,
    target: options.RunTargets = None,
    runner: options.Runner = None,
    shares: options.Shares = None,
    data: options.RunData = None,
    budget: options.Budget = None,
    budget_ms: options.BudgetMs = None,
    space: options.RunSpace = None,
    resolution: options.Resolution = None,
    width: options.Width = None,
    recipe: options.RunRecipe = None,
    algorithm: options.Algorithm = None,
    penalty: options.Penalty = None,
    max_params: options.MaxParams = None,
    max_memory_kb: options.MaxMemory = None,
    seed: options.RunSeed = None,
    threads: options.RunThreads = None,
    weights: options.RunWeights = None,
    dtype: options.RunDtype = None,
    search_epochs: options.SearchEpochs = None,
    out: options.Out = None,
    resume: options.Resume = False,
    database: options.Database = None,
    json: options.Json = False,
) -> None:
    """The part of `run` that finds the architecture; `netlathe run --resume --out DIR` goes on from there."""
    _run(ctx, "derive")


@app.command()
def sweep(
    ctx: typer.Context,
    budgets: options.Budgets = "0.4x,0.6x,0.8x",
    target: options.RunTargets = None,
    runner: options.Runner = None,
    shares: options.Shares = None,
    data: options.RunData = None,
    space: options.RunSpace = None,
    resolution: options.Resolution = None,
    width: options.Width = None,
    recipe: options.RunRecipe = None,
    algorithm: options.Algorithm = None,
    penalty: options.Penalty = None,
    max_params: options.MaxParams = None,
    max_memory_kb: options.MaxMemory = None,
    seed: options.RunSeed = None,
    threads: options.RunThreads = None,
    weights: options.RunWeights = None,
    dtype: options.RunDtype = None,
    search_epochs: options.SearchEpochs = None,
    train_epochs: options.TrainEpochs = None,
    ema: options.Ema = None,
    train: options.Train = False,
    out: options.Out = None,
    database: options.Database = None,
    json: options.Json = False,
) -> None:
    """One warmed-up supernet, many budgets: the front of accuracy over latency. Started again it goes on."""
    given: dict[str, Any] = {name: value for name, value in ctx.params.items() if value is not None}
    ctx.find_root().meta[options.RESUME_KEY] = "the same command"
    config = _config({**given, "resume": False})
    from pipeline import api

    with console.ProgressView() as progress:
        found = api.sweep(
            config, budgets.split(","), out=out, train=train, database=database, progress=progress, say=console.say
        )
    if json:
        console.show(found, as_json=True)
        return
    shown = [name for name in _POINT if any(name in point for point in found["points"])]
    rows = [{name: point.get(name, "") for name in shown} for point in found["points"]]
    console.show_table(f"{found['sweep']}", rows)
    for point in found["points"]:
        if "error" in point:
            console.say(f"{point['budget']}: {point['error']}")
    console.result_line(f"The front is drawn in {found['plot']}")


_POINT = (
    "budget",
    *(name for unit in UNITS for name in (f"budget_{unit.key}", f"predicted_{unit.key}", unit.measured_key)),
    *("supernet_top1", "top1", "on_front"),
)


def _run(ctx: typer.Context, until: str) -> None:
    """A run with the options of the command line, up to a stage."""
    given: dict[str, Any] = {name: value for name, value in ctx.params.items() if value is not None}
    resume = given["resume"]
    config = _config(given)
    folder = given.get("out") or default_folder(config, RUNS, resume=resume)
    database = given.get("database")
    again = ["netlathe", str(ctx.info_name), "--resume", "--out", str(folder)]
    ctx.find_root().meta[options.RESUME_KEY] = shlex.join(again + (["--database", str(database)] if database else []))
    console.say(f"{folder}: {config.summary()}")
    from pipeline import api  # torch and TVM take seconds to load, and `--help` needs neither

    with console.ProgressView() as progress:
        arguments = {"out": folder, "resume": resume, "database": database}
        work = api.run if until == "report" else api.search
        found = work(config, **arguments, progress=progress, say=console.say)
    if found:
        _show(found, config, as_json=given["json"])


def _show(found: dict[str, Any], config: RunConfig, *, as_json: bool) -> None:
    """The result of a run; what there is of further targets as a table."""
    if as_json:
        console.show(found, as_json=True)
        return
    also = found.pop(ALSO)
    console.show(found, as_json=False)
    if also:
        rows = {config.target: found, **also}
        # Of targets that are measured and of others that are emulated the names differ.
        numbers = dict.fromkeys(name for row in rows.values() for name, v in row.items() if isinstance(v, float))
        console.show_table(
            "Every target", [{"target": name, **{n: row.get(n, "") for n in numbers}} for name, row in rows.items()]
        )


def _config(given: dict[str, Any]) -> RunConfig:
    """The config that the options make, on top of the stored one where the run in --out is resumed."""
    chosen = {name: value for name, value in given.items() if name in RunConfig.model_fields}
    if targets := chosen.pop("target", ["x86"] if "runner" in given else None):
        if "runner" in given and len(targets) > 1:
            raise ConfigError("Of several targets each has a runner of its own: write --target NAME@RUNNER for each.")
        chosen["target"], *chosen["also"] = [options.at(target, given.get("runner")) for target in targets]
    if "shares" in chosen:
        chosen["shares"] = parse_shares(chosen["shares"])
    if "budget_ms" in given:
        if "budget" in given:
            raise ConfigError("The budget was given twice. Give --budget or --budget-ms.")
        chosen["budget"] = f"{given['budget_ms']!r}ms"
    out = given.get("out")
    stored = stored_config(out).model_dump() if given["resume"] and out and (out / "config.json").exists() else {}
    if chosen.get("dtype") not in (None, stored.get("dtype")) and "weights" not in chosen:
        stored.pop("weights", None)  # they follow from it
    return make_config(**{**stored, **chosen})


for command in (
    commands.calibrate,
    commands.predict,
    commands.train,
    commands.compile,
    commands.bench,
    commands.report,
    commands.targets,
    commands.doctor,
):
    app.command()(command)


def main() -> None:
    """The entry point of the `netlathe` command."""
    app(prog_name="netlathe")
