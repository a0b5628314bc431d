"""What the sources of a network for a GPU say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tvm_latency.gpu_network import GpuNetwork
from tvm_latency.network_plan import NetworkPlan

RUNTIME = ("runtime.c", "driver.c", "code.S")
CODE = "code.bin"
_ALIGNMENT = 64


def write_code(network: GpuNetwork, folder: Path) -> list[Path]:
    """The machine code of all kernels, which a source includes."""
    (folder / CODE).write_bytes(_code(network)[1])
    return []


def facts(network: GpuNetwork, plan: NetworkPlan) -> dict[str, Any]:
    """What templates for GPUs say."""
    starts, _ = _code(network)
    steps = [(step, network.code[step.kernel]) for step in plan.steps]
    launches = [
        {
            "function": launch.function,
            "code": starts[step.kernel],
            "blocks": launch.blocks,
            "threads": launch.threads,
            "shared_bytes": launch.shared_bytes,
            "count": len(launch.operands),
        }
        for step, kernel in steps
        for launch in kernel.launches
    ]
    capability = network.target.mcpu.removeprefix("sm_")
    return {
        "gpu": True,
        "threads": 1,
        "operands": [step.operands[i] for step, kernel in steps for launch in kernel.launches for i in launch.operands],
        "launches": launches,
        "steps": [{"name": step.kernel, "count": len(kernel.launches)} for step, kernel in steps],
        "weight_bytes": plan.weights.size,
        "major": capability[:-1],
        "minor": capability[-1],
    }


def _code(network: GpuNetwork) -> tuple[dict[str, int], bytes]:
    """Where in all code each kernel's begins, and all of it."""
    starts, code = dict[str, int](), bytearray()
    for name, kernel in network.code.items():
        starts[name] = len(code)
        code += kernel.code + bytes(-len(kernel.code) % _ALIGNMENT)
    return starts, bytes(code)
