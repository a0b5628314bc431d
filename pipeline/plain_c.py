"""The plain C form of an artefact: written, and run on its own reference output."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.agreement import Inference, Verification, VerifyError, cause_of_difference, require_finite
from targets.emulator import ProgramError, launcher, run_program
from targets.runner import Timing
from targets.target import EMULATED, Target
from targets.toolchain import ToolchainError
from tvm_latency.code_store import cache_folder, kept
from tvm_latency.compiled import CompiledNetwork
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
SELF_TEST = ("--num_runs=0", "--warmup_runs=0", "--json")
# Of answers of emulators, some hundred bytes each.
KEPT_BYTES = 2**20


def write_plain_c(
    compiled: CompiledNetwork,
    folder: Path,
    net: str,
    reference: Inference,
    tolerance: float,
    say: Callable[[str], None],
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

    An emulator is not asked again of a program that it has run.

    weights: how the network stores them.

    Raises:
        VerifyError: it answers something else than the reference, or fails.
    """
    before = launcher(target)
    if before is None or not (folder / NETBENCH).exists():
        return None
    try:
        printed = _tested(folder / NETBENCH, before)
    except ProgramError as error:
        raise VerifyError(
            f"The plain C form does not do what {against} does. {error} {cause_of_difference(weights, target.dtype)}"
        ) from error
    found: dict[str, Any] = json.loads(printed)
    where = _emulated_by(before) if before else ""
    return Verification(against + where, 1, found["max_abs_error"], float(found["same_top1"]))


def _tested(program: Path, before: tuple[str, ...]) -> str:
    """What the self-test prints. An emulator takes seconds, and says of the same program what it said before.

    Raises:
        ProgramError: it fails.
    """

    def test() -> bytes:
        return run_program(program, *SELF_TEST, before=before).encode()

    if not before:
        return test().decode()
    emulator = Path(shutil.which(before[0]) or "").stat()
    settings = sorted(item for item in os.environ.items() if item[0].startswith("QEMU_"))
    facts = (*before, *SELF_TEST, emulator.st_mtime_ns, emulator.st_size, settings)
    digest = blake2b(f"{facts}".encode() + program.read_bytes(), digest_size=20).hexdigest()
    return kept(cache_folder("self-tests"), digest, test, KEPT_BYTES).decode()
