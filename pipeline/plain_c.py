"""The plain C form of an artefact: written, and run on its own reference output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.agreement import Inference, Verification, VerifyError
from targets.emulator import ProgramError, launcher, run_program
from targets.target import Target
from tvm_latency.build import Compiled
from tvm_latency.standalone.write import (
    HEADER,
    LIBRARY,
    NETBENCH,
    SelfTest,
    StandaloneError,
    input_of,
    probe_input,
    write_standalone,
)

PLAIN_C = (LIBRARY, HEADER, NETBENCH)


def write_plain_c(
    compiled: Compiled, folder: Path, net: str, reference: Inference, tolerance: float, say: Callable[[str], None]
) -> None:
    """Write `libnet.a`, `net.h` and `netbench`, in place of older ones; say why, where a network has no such form.

    tolerance: the share of the largest output by which rounding may move one.

    Raises:
        ToolchainError: nothing here compiles C for the target.
    """
    for name in PLAIN_C:
        (folder / name).unlink(missing_ok=True)
    try:
        expected = reference(probe_input(input_of(compiled).shape))
        allowed = tolerance * max(1.0, float(np.abs(expected).max()))
        write_standalone(compiled, folder, f"{net} for {compiled.target.name}", SelfTest(expected, allowed))
    except StandaloneError as error:
        say(str(error))


def self_test(folder: Path, target: Target, against: str) -> Verification | None:
    """What `netbench` finds of its own output, here or under an emulator; None without it, or where nothing runs it.

    Raises:
        VerifyError: it answers something else than the reference, or fails.
    """
    before = launcher(target)
    if before is None or not (folder / NETBENCH).exists():
        return None
    try:
        printed = run_program(
            folder / NETBENCH, "--num_runs=1", "--min_secs=0", "--warmup_runs=0", "--json", before=before
        )
    except ProgramError as error:
        raise VerifyError(f"The plain C form does not do what {against} does. {error}") from error
    found: dict[str, Any] = json.loads(printed)
    emulated = f", emulated by {' '.join(before)}" if before else ""
    return Verification(against + emulated, 1, found["max_abs_error"], float(found["same_top1"]))
