"""The compiled network as plain C: `libnet.a`, `net.h` and `netbench`, without TVM's runtime."""

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
import tvm
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from tvm.target.codegen import llvm_get_cpu_features

from targets.target import Target
from targets.toolchain import Toolchain, find_toolchain
from tvm_latency.build import Compiled
from tvm_latency.network_plan import NetworkPlan, Operand
from tvm_latency.single_call import SYMBOL_PREFIX, code_of

LIBRARY, HEADER, NETBENCH, WEIGHTS = "libnet.a", "net.h", "netbench", "weights.bin"
SOURCES = Path(__file__).parent
RUNTIME = ("runtime.c", "pool.c", "system.c", "cpu.c")
PROGRAM = ("netbench.c", "evict.c", "expected.c")
# DLDataTypeCode of dlpack.h.
_TYPE_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
_KIB = 1024
# A `netlathe_tensor` and a `netlathe_any`, on 64 bits.
_OPERAND_BYTES = 48 + 16
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


def write_standalone(compiled: Compiled, folder: Path, title: str, test: SelfTest) -> None:
    """Write `libnet.a`, `net.h` and `netbench` into `folder`.

    Raises:
        StandaloneError: the network is more than kernels one after the other, or has not one float32 input and output.
        ToolchainError: nothing here compiles C for the target, or it failed.
    """
    toolchain = find_toolchain(compiled.target)
    with TemporaryDirectory() as name:
        work = Path(name)
        library, program = _compiled_sources(compiled, toolchain, work, title, test)
        toolchain.archive(library, work / LIBRARY)
        toolchain.link_program([*program, *library], work / NETBENCH)
        for file in (LIBRARY, HEADER, NETBENCH):
            copyfile(work / file, folder / file)
    (folder / NETBENCH).chmod(0o755)


def write_netbench(compiled: Compiled, path: Path, test: SelfTest) -> None:
    """Write `netbench` alone: the same bytes for the same network, whatever the file is called.

    Raises:
        StandaloneError, ToolchainError: see `write_standalone`.
    """
    toolchain = find_toolchain(compiled.target)
    with TemporaryDirectory() as name:
        library, program = _compiled_sources(compiled, toolchain, Path(name), "candidate", test)
        toolchain.link_program([*program, *library], path)
    path.chmod(0o755)


def _compiled_sources(
    compiled: Compiled, toolchain: Toolchain, work: Path, title: str, test: SelfTest
) -> tuple[list[Path], list[Path]]:
    """The object files of `libnet.a`, and those of netbench beside them."""
    library, program = write_sources(compiled, work, title, test), [work / name for name in PROGRAM]
    toolchain.compile([file for file in (*library, *program) if file.suffix != ".o"])
    return [file.with_suffix(".o") for file in library], [file.with_suffix(".o") for file in program]


def write_sources(compiled: Compiled, folder: Path, title: str, test: SelfTest) -> list[Path]:
    """Write what `libnet.a` and netbench are made of; the files of the library, of which the kernels are compiled.

    Raises:
        StandaloneError: see `write_standalone`.
    """
    plan = _checked(compiled.plan)
    for file in SOURCES.glob("*.[chS]"):
        copyfile(file, folder / file.name)
    # It stands in comments and in a string of C.
    title = re.sub(r"[^\w@.,:+ -]", "_", title)
    for template in _TEMPLATES.list_templates(extensions=["j2"]):
        text = _TEMPLATES.get_template(template).render(_facts(compiled, plan, title, test))
        (folder / template.removesuffix(".j2")).write_text(text)
    (folder / WEIGHTS).write_bytes(plan.weights.tobytes())
    return [*compiled.write_objects(folder), *(folder / name for name in (*RUNTIME, "plan.c", "weights.S"))]


def input_of(compiled: Compiled) -> Operand:
    """The one tensor that the network takes.

    Raises:
        StandaloneError: see `write_standalone`.
    """
    return _checked(compiled.plan).inputs[0]


def _checked(plan: NetworkPlan | None) -> NetworkPlan:
    if plan is None:
        raise StandaloneError(
            "The network is more than kernels one after the other (a sort, several outputs), which needs TVM's runtime."
        )
    tensors = [*plan.inputs, plan.output]
    if len(plan.inputs) != 1 or any(tensor.dtype != "float32" for tensor in tensors):
        shown = ", ".join(f"{tensor.dtype}{list(tensor.shape)}" for tensor in tensors)
        raise StandaloneError(f"It takes one float32 tensor and answers one; this network has {shown}.")
    return plan


def _facts(compiled: Compiled, plan: NetworkPlan, title: str, test: SelfTest) -> dict[str, Any]:
    """What the templates say."""
    shapes = list(dict.fromkeys(operand.shape for step in plan.steps for operand in step.operands))
    steps = [
        {"name": step.kernel, "symbol": SYMBOL_PREFIX + code_of(step.kernel), "count": len(step.operands)}
        for step in plan.steps
    ]
    return {
        "title": title,
        "steps": steps,
        "symbols": sorted({step["symbol"] for step in steps}),
        "shapes": shapes,
        "operands": [
            _described(operand, shapes.index(operand.shape)) for step in plan.steps for operand in step.operands
        ],
        "features": features_of(compiled.target),
        "memory_bytes": plan.memory_bytes,
        # Each block of it is rounded up to a cache line.
        "scratch_bytes": compiled.scratch_bytes + _KIB,
        "memory_kib": -(-_instance_bytes(plan) // _KIB),
        "scratch_kib": -(-compiled.scratch_bytes // _KIB) + 1,
        "threads": compiled.target.threads,
        "input_shape": plan.inputs[0].shape,
        "input_size": math.prod(plan.inputs[0].shape),
        "output_shape": plan.output.shape,
        "output_size": math.prod(plan.output.shape),
        "expected": [f"{float(value).hex()}f" for value in test.expected.reshape(-1)],
        "tolerance": float(test.tolerance).hex(),
    }


def _instance_bytes(plan: NetworkPlan) -> int:
    """What `netlathe_create` allocates beside the threads' scratch: see `allocate_all` in runtime.c."""
    tensors = [*plan.inputs, plan.output]
    copies = sum(4 * math.prod(tensor.shape) for tensor in tensors)
    operands = sum(len(step.operands) for step in plan.steps)
    return plan.memory_bytes + copies + operands * _OPERAND_BYTES


def _described(operand: Operand, shape: int) -> dict[str, Any]:
    kind = operand.dtype.rstrip("0123456789")
    bits = int(operand.dtype.removeprefix(kind) or 8)
    return {
        "offset": operand.offset,
        "shape": shape,
        "place": operand.place,
        "ndim": len(operand.shape),
        "code": _TYPE_CODES[kind],
        "bits": bits,
    }


def features_of(target: Target) -> list[str]:
    """What LLVM may use for the target, by its names."""
    return sorted(map(str, llvm_get_cpu_features(tvm.target.Target(target.tvm_attributes()))))
