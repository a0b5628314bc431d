"""The command line's options, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from supernet.settings import AlgorithmName, PenaltyName, RecipeName
from targets.target import DType
from tvm_latency.opspec import WeightType

JSON_KEY, RESUME_KEY = "netlathe.json", "netlathe.resume"
"""Where the context keeps whether to print JSON, and the command that goes on after Ctrl-C."""


def _remember_json(ctx: typer.Context, value: bool) -> bool:
    ctx.find_root().meta[JSON_KEY] = value
    return value


Json = Annotated[bool, typer.Option("--json", callback=_remember_json, is_eager=True, help="Print the result as JSON.")]
Net = Annotated[str, typer.Argument(help="A name, an architecture.json, a run folder or an .onnx file.")]
Nets = Annotated[list[str], typer.Argument(help="Names, architecture.json files, run folders or .onnx files.")]
RunFolder = Annotated[Path, typer.Argument(help="The folder of a run.")]

Target = Annotated[str, typer.Option(help="The machine to build for: see `netlathe targets`.")]
Runner = Annotated[
    str | None,
    typer.Option(help="What measures there: adb, adb:SERIAL, ssh:USER@HOST, rpc:HOST:PORT or bundle:FOLDER."),
]
Count = Annotated[
    bool, typer.Option("--count", help="Count instructions, loads, stores and cache misses under an emulator.")
]
TuneFallback = Annotated[
    int, typer.Option(min=0, help="Trials of TVM's MetaSchedule for each operator that has none of our kernels.")
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the compiled network.")]
Weights = Annotated[
    WeightType | None,
    typer.Option(help="How weights are stored: float16 halves the artefact. [default: as --dtype]"),
]
Dtype = Annotated[
    DType,
    typer.Option(help="What is computed in: float16 on ARMv8.2 cores, with AVX-512 FP16 and on GPUs, tf32 on GPUs."),
]
Explain = Annotated[bool, typer.Option("--explain", help="Show what every operator takes, and why.")]
Data = Annotated[str, typer.Option(help="`digits`, a folder, Parquet files or a name on the Hugging Face hub.")]
Space = Annotated[str, typer.Option(help="Search space: digits, cifar, imagenet or a .toml file.")]
Seed = Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Seed of splits, weights, search and training.")]
Recipe = Annotated[RecipeName, typer.Option(help="`short`, or the `paper`'s, which takes days for photographs.")]
Epochs = Annotated[int | None, typer.Option(min=1, help="Epochs, instead of what suits the images' size.")]
Ema = Annotated[
    float | None, typer.Option(min=0, help="Ship a moving average of the weights: 0.999 keeps so much each step.")
]
Out = Annotated[Path | None, typer.Option(help="Folder for everything that is written.")]
From = Annotated[
    str | None, typer.Option("--from", help="A target whose calibration of this space is taken over, scaled.")
]
Measurements = Annotated[int | None, typer.Option(min=5, help="With --from: networks to measure. [default: 50]")]
Export = Annotated[Path | None, typer.Option(help="Write the calibration to a .json, or a .yaml for ProxylessNAS.")]
Import = Annotated[Path | None, typer.Option("--import", help="Take the calibration from such a file.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")]
Database = Annotated[Path | None, typer.Option(help="File of measurements; by default one for all runs of a user.")]
Against = Annotated[str, typer.Option(help="Runtimes: onnxruntime, openvino, ncnn, litert, torch, torch.compile.")]


def at(target: str, runner: str | None) -> str:
    """The name of a target that is measured in a way of its own, as `targets.registry.get_target` takes it."""
    return f"{target}@{runner}" if runner else target


# Options of a run have no default of their own: what is not given comes from the run that is resumed, or RunConfig.
RunTargets = Annotated[
    list[str] | None, typer.Option("--target", help="The machine to build for; again for more. [default: x86]")
]
Shares = Annotated[
    str | None,
    typer.Option(help="Of several targets the weighted mean keeps the budget, as in `2,1`. [default: each does]"),
]
RunData = Annotated[str | None, typer.Option("--data", help="As for `train`. [default: digits]")]
Budget = Annotated[
    str | None, typer.Option(help="`0.6x` the baseline's, or `3.5ms`; emulated, `40minstr`. [default: 0.6x]")
]
Budgets = Annotated[str, typer.Option(help="Budgets with commas between them, each as for `run`.")]
Train = Annotated[bool, typer.Option("--train", help="Train and compile each network too.")]
BudgetMs = Annotated[float | None, typer.Option(help="The budget in milliseconds.")]
RunSpace = Annotated[
    str | None, typer.Option("--space", help="Search space or .toml file. [default: by the images' size]")
]
RunRecipe = Annotated[RecipeName | None, typer.Option("--recipe", help="As for `train`. [default: short]")]
Resolution = Annotated[int | None, typer.Option(min=1, help="Pixels of the images. [default: the space's]")]
NetResolution = Annotated[
    int | None,
    typer.Option("--resolution", min=1, max=4096, help="Pixels of the images, instead of the network's own."),
]
Classes = Annotated[int | None, typer.Option(min=1, help="Outputs, instead of the network's own.")]
Width = Annotated[float | None, typer.Option(min=0.1, max=4.0, help="Multiplier of the space's channels. [default: 1]")]
Algorithm = Annotated[AlgorithmName | None, typer.Option(help="How to search. [default: gradient]")]
Penalty = Annotated[PenaltyName | None, typer.Option(help="How the budget enters the loss. [default: target]")]
MaxParams = Annotated[float | None, typer.Option(help="At most so many parameters.")]
MaxMemory = Annotated[
    float | None, typer.Option("--max-memory-kb", help="At most so many kilobytes of activations alive at once.")
]
RunSeed = Annotated[int | None, typer.Option("--seed", help="Seed of everything. [default: 0]")]
RunThreads = Annotated[int | None, typer.Option("--threads", help="Threads of the network. [default: 1]")]
RunWeights = Annotated[WeightType | None, typer.Option("--weights", help="As for `compile`. [default: as --dtype]")]
RunDtype = Annotated[DType | None, typer.Option("--dtype", help="As for `compile`. [default: float32]")]
SearchEpochs = Annotated[int | None, typer.Option(help="Epochs of the search.")]
TrainEpochs = Annotated[int | None, typer.Option(help="Epochs of both trainings.")]
