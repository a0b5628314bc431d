"""The compiled network as plain C: `libnet.a`, `net.h` and `netbench`, without TVM's runtime.

What CPUs and GPUs have in common stands in this folder, the rest in `cpu` and `cuda`, in files of the same names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from targets.toolchain import Toolchain, find_toolchain
from tvm_latency.compiled import CompiledNetwork
from tvm_latency.network_plan import NetworkPlan, Operand
from tvm_latency.standalone import cpu_facts, gpu_facts

LIBRARY, HEADER, NETBENCH, WEIGHTS = "libnet.a", "net.h", "netbench", "weights.bin"
SOURCES = Path(__file__).parent
COMMON = ("system.c", "plan.c", "weights.S")
BENCH = ("netbench.c", "evict.c", "clock.c", "expected.c")
PROGRAM = (*BENCH, "main.c")
_TEMPLATES = Environment(
    loader=PackageLoader("tvm_latency", "standalone"), undefined=StrictUndefined, keep_trailing_newline=True
)


class StandaloneError(ValueError):
    """The network has no plain C form."""


@dataclass(frozen=True)
class SelfTest:
    """What netbench compares with: the reference's output for `probe_input`, and what rounding may change of it."""

    expected: NDArray[np.float32]
    tolerance: float


def probe_input(shape: Sequence[int]) -> NDArray[np.float32]:
    """The input of netbench's self-test: multiples of 2^-15 from -1 to 1, the same as `probe_input` in netbench.c."""
    index = np.arange(math.prod(shape), dtype=np.uint32)
    numbers: NDArray[np.float32] = (index * np.uint32(2654435761) >> 16).astype(np.float32) / 32768 - 1
    return numbers.reshape(shape)


def write_standalone(compiled: CompiledNetwork, folder: Path, title: str, test: SelfTest) -> None:
    """Write `libnet.a`, `net.h` and `netbench` into `folder`.

    Raises:
        StandaloneError: the network is more than kernels one after the other, or has not one float32 input and output.
        ToolchainError: nothing here compiles C for the target, or it failed.
    """
    toolchain = find_toolchain(compiled.target)
    with TemporaryDirectory() as name:
        work = Path(name)
        library, program = _compiled_sources(compiled, toolchain, work, title, test, PROGRAM)
        toolchain.archive(library, work / LIBRARY)
        toolchain.link_program([*program, *library], work / NETBENCH)
        for file in (LIBRARY, HEADER, NETBENCH):
            copyfile(work / file, folder / file)
    (folder / NETBENCH).chmod(0o755)


def write_netbench(compiled: CompiledNetwork, path: Path, test: SelfTest) -> None:
    """Write `netbench` alone: the same bytes for the same network, whatever the file is called.

    Raises:
        StandaloneError, ToolchainError: see `write_standalone`.
    """
    toolchain = find_toolchain(compiled.target)
    with TemporaryDirectory() as name:
        library, program = _compiled_sources(compiled, toolchain, Path(name), "candidate", test, PROGRAM)
        toolchain.link_program([*program, *library], path)
    path.chmod(0o755)


def write_plugin(compiled: CompiledNetwork, path: Path, test: SelfTest) -> None:
    """Write `netbench` as a library, which one process runs after others (`targets/load_plugins.c`).

    Raises:
        StandaloneError, ToolchainError: see `write_standalone`.
    """
    toolchain = find_toolchain(compiled.target)
    with TemporaryDirectory() as name:
        library, bench = _compiled_sources(compiled, toolchain, Path(name), "candidate", test, BENCH)
        toolchain(str(path), [str(file) for file in (*bench, *library)], ("-lm", "-pthread"))


def _compiled_sources(
    compiled: CompiledNetwork, toolchain: Toolchain, work: Path, title: str, test: SelfTest, beside: Sequence[str]
) -> tuple[list[Path], list[Path]]:
    """The object files of `libnet.a`, and those of some sources beside them."""
    library, others = write_sources(compiled, work, title, test), [work / name for name in beside]
    toolchain.compile([file for file in (*library, *others) if file.suffix != ".o"])
    return [file.with_suffix(".o") for file in library], [file.with_suffix(".o") for file in others]


def write_sources(compiled: CompiledNetwork, folder: Path, title: str, test: SelfTest) -> list[Path]:
    """Write what `libnet.a` and netbench are made of; the files of the library, of which the kernels are compiled.

    Raises:
        StandaloneError: see `write_standalone`.
    """
    plan = require_one_image(compiled.plan)
    machine, facts_of = ("cuda", gpu_facts) if compiled.target.kind == "cuda" else ("cpu", cpu_facts)
    # It stands in comments and in a string of C.
    facts = {"title": re.sub(r"[^\w@.,:+ -]", "_", title), **_facts(plan, test), **facts_of.facts(compiled, plan)}
    for file in (*SOURCES.iterdir(), *(SOURCES / machine).iterdir()):
        if file.suffix == ".j2":
            template = _TEMPLATES.get_template(file.relative_to(SOURCES).as_posix())
            (folder / file.stem).write_text(template.render(facts))
        elif file.suffix in (".c", ".h", ".S"):
            copyfile(file, folder / file.name)
    (folder / WEIGHTS).write_bytes(plan.weights.tobytes())
    return [*facts_of.write_code(compiled, folder), *(folder / name for name in (*facts_of.RUNTIME, *COMMON))]


def input_of(compiled: CompiledNetwork) -> Operand:
    """The one tensor that the network takes.

    Raises:
        StandaloneError: see `write_standalone`.
    """
    return require_one_image(compiled.plan).inputs[0]


def require_one_image(plan: NetworkPlan | None) -> NetworkPlan:
    """The plan.

    Raises:
        StandaloneError: there is none, or the network has not one float32 input and output.
    """
    if plan is None:
        raise StandaloneError(
            "The network is more than kernels one after the other (a sort, several outputs), which needs TVM's runtime."
        )
    tensors = [*plan.inputs, plan.output]
    if len(plan.inputs) != 1 or any(tensor.dtype != "float32" for tensor in tensors):
        shown = ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in tensors)
        raise StandaloneError(f"It takes one float32 tensor and answers one; this network has {shown}.")
    return plan


def _facts(plan: NetworkPlan, test: SelfTest) -> dict[str, Any]:
    """What templates of all machines say."""
    return {
        "memory_bytes": plan.memory_bytes,
        "input_shape": plan.inputs[0].shape,
        "input_size": math.prod(plan.inputs[0].shape),
        "output_shape": plan.output.shape,
        "output_size": math.prod(plan.output.shape),
        "expected": [f"{float(value).hex()}f" for value in test.expected.reshape(-1)],
        "tolerance": float(test.tolerance).hex(),
    }
