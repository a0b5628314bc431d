"""What the sources of a network for a GPU say."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import Any

from tvm_latency.gpu_network import GpuKernel, GpuNetwork
from tvm_latency.network_plan import NetworkPlan

RUNTIME = ("runtime.c", "graphs.c", "driver.c", "code.S")
CODE = "code.bin"
_ALIGNMENT = 64


def write_code(network: GpuNetwork, folder: Path) -> list[Path]:
    """Write the machine code of all kernels, which code.S includes; no object files."""
    (folder / CODE).write_bytes(b"".join(_padded(kernel) for kernel in network.code.values()))
    return []


def facts(network: GpuNetwork, plan: NetworkPlan) -> dict[str, Any]:
    """What templates for GPUs say: launches, their operands, the steps they belong to, sizes, the capability."""
    sizes = [len(_padded(kernel)) for kernel in network.code.values()]
    starts = dict(zip(network.code, accumulate(sizes, initial=0)))
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


def _padded(kernel: GpuKernel) -> bytes:
    """Its machine code, filled up so that the next one's is aligned."""
    return kernel.code + bytes(-len(kernel.code) % _ALIGNMENT)
