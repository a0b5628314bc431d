"""The plain C form of an artefact: written, and run on its own reference output."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.agreement import Inference, Verification, VerifyError, cause_of_difference, require_finite
from targets.emulator import ProgramError, launcher, run_program
from targets.runner import Timing
from targets.target import EMULATED, Target
from targets.toolchain import ToolchainError
from tvm_latency.build import Compiled
from tvm_latency.opspec import WeightType
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
    """Write `libnet.a`, `net.h` and `netbench`, in place of older ones; say why, where there can be none.

    tolerance: the share of the largest output by which rounding may move one.

    Raises:
        VerifyError: the reference answers with something that is not a finite number.
    """
    for name in PLAIN_C:
        (folder / name).unlink(missing_ok=True)
    try:
        expected = reference(probe_input(input_of(compiled).shape))
        require_finite("The reference answers the test image", expected)
        allowed = tolerance * max(1.0, float(np.abs(expected).max()))
        write_standalone(compiled, folder, f"{net} for {compiled.target.machine}", SelfTest(expected, allowed))
    except (StandaloneError, ToolchainError) as error:
        say(f"There is no plain C form, only model.so. {error}")


def on_the_machine(timing: Timing, against: str, target: Target) -> Verification | None:
    """What `netbench` found of its own output where it was measured; None of what is no netbench."""
    if timing.answer is None:
        return None
    emulated = target.runner == EMULATED
    where = _emulated_by(target.emulator) if emulated else f", on the machine by {target.runner}"
    return Verification(against + where, 1, timing.answer.max_abs_error, float(timing.answer.same_top1))


def _emulated_by(words: Sequence[str]) -> str:
    return f", emulated by {' '.join(words)}"


def self_test(folder: Path, target: Target, against: str, weights: WeightType) -> Verification | None:
    """What `netbench` finds of its own output, here or under an emulator; None without it, or where nothing runs it.

    weights: how the network stores them.

    Raises:
        VerifyError: it answers something else than the reference, or fails.
    """
    before = launcher(target)
    if before is None or not (folder / NETBENCH).exists():
        return None
    try:
        printed = run_program(folder / NETBENCH, "--num_runs=0", "--warmup_runs=0", "--json", before=before)
    except ProgramError as error:
        raise VerifyError(
            f"The plain C form does not do what {against} does. {error} {cause_of_difference(weights, target.dtype)}"
        ) from error
    found: dict[str, Any] = json.loads(printed)
    where = _emulated_by(before) if before else ""
    return Verification(against + where, 1, found["max_abs_error"], float(found["same_top1"]))
