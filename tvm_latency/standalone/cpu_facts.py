"""What the sources of a network for a CPU say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import tvm
from tvm.target.codegen import llvm_get_cpu_features

from targets.target import Target
from tvm_latency.build import Compiled
from tvm_latency.network_plan import NetworkPlan, Operand
from tvm_latency.single_call import SYMBOL_PREFIX, code_of

RUNTIME = ("runtime.c", "pool.c", "cpu.c")
# DLDataTypeCode of dlpack.h.
_TYPE_CODES = {"int": 0, "uint": 1, "float": 2, "bool": 6}
_KIB = 1024
# A `netlathe_tensor` and a `netlathe_any`, on 64 bits.
_OPERAND_BYTES = 48 + 16


def write_code(compiled: Compiled, folder: Path) -> list[Path]:
    """The kernels, as object files."""
    return compiled.write_objects(folder)


def facts(compiled: Compiled, plan: NetworkPlan) -> dict[str, Any]:
    """What templates for CPUs say: steps with their operands and shapes, features that the code needs, sizes."""
    shapes = list(dict.fromkeys(operand.shape for step in plan.steps for operand in step.operands))
    steps = [
        {"name": step.kernel, "symbol": SYMBOL_PREFIX + code_of(step.kernel), "count": len(step.operands)}
        for step in plan.steps
    ]
    return {
        "gpu": False,
        "steps": steps,
        "symbols": sorted({step["symbol"] for step in steps}),
        "shapes": shapes,
        "operands": [
            _described(operand, shapes.index(operand.shape)) for step in plan.steps for operand in step.operands
        ],
        "features": features_of(compiled.target),
        # Each block of it is rounded up to a cache line.
        "scratch_bytes": compiled.scratch_bytes + _KIB,
        "memory_kib": -(-_instance_bytes(plan) // _KIB),
        "scratch_kib": -(-compiled.scratch_bytes // _KIB) + 1,
        "threads": compiled.target.threads,
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
