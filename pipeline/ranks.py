"""Several processes for one run: `torchrun --nproc-per-node N --no-python netlathe run ...`.

Rank 0 performs the run as ever. Search and training are shared: for these it calls the others, which wait meanwhile,
perform the same stage on the same files, and write nothing. When a rank dies torchrun stops the others, and
`--resume` takes the run up where its checkpoint is.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipeline.config import ConfigError
from pipeline.context import Result, RunContext
from pipeline.files import read_json
from pipeline.run_folder import RESULT
from supernet import parallel

JOINT = ("search", "train")
"""The stages that all ranks perform together."""


def joint(name: str, work: Callable[[RunContext, Path], Result], context: RunContext) -> Callable[[Path], Result]:
    """The work of a stage, which calls the other ranks first where they have a part in it."""

    def call(folder: Path) -> Result:
        if name in JOINT:
            parallel.send_text(name)
        return work(context, folder)

    return call if parallel.ranks() > 1 else partial(work, context)


def refuse(command: str) -> None:
    """Refuse torchrun for a command that has no part for other ranks.

    Raises:
        ConfigError: there are several.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            f"`netlathe {command}` cannot be shared by several processes. Start it without torchrun; `netlathe run` "
            "and `netlathe search` can be shared."
        )


def dismiss() -> None:
    """Tell the other ranks that the run is done."""
    parallel.send_text("")


def follow(context: Callable[[Path], RunContext], stages: dict[str, Callable[[RunContext, Path], Result]]) -> None:
    """What a rank other than 0 does: wait for the folder of the run, and then for each stage it has a part in.

    context: makes the context of a run in a folder.
    """
    folder = Path(parallel.receive_text())
    while name := parallel.receive_text():
        here = context(folder)
        for before in list(stages)[: list(stages).index(name)]:
            here.results[before] = read_json(folder / before / RESULT) or {}
        stages[name](here, folder / name)
