"""Device code, run on a CPU: nothing of what a GPU computes is left out but the GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from targets.cuda_compiler import CudaCompiler
from tvm_latency.device_code import DeviceCode

# Before and behind each operand; written bytes of it are an error, and read ones NaN.
GUARD_BYTES = 4096
GUARD = 0xFF

RunOnCpu = Callable[[DeviceCode, Sequence[np.ndarray]], None]


def _guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All bytes, and those of them that are a copy of the array."""
    everything = np.full(array.nbytes + 2 * GUARD_BYTES + 64, GUARD, np.uint8)
    start = GUARD_BYTES + -(everything.ctypes.data + GUARD_BYTES) % 64
    inside = everything[start : start + array.nbytes]
    inside[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return everything, inside


@pytest.fixture
def run_on_cpu(tmp_path: Path, cuda_on_cpu: CudaCompiler) -> RunOnCpu:
    """Launch device code on operands, of which the last is written.

    Each launch is run twice, blocks and threads in the reverse order too, and must do the same.
    """

    def once(library: ctypes.CDLL, code: DeviceCode, operands: Sequence[np.ndarray], order: int) -> list[np.ndarray]:
        memory = [_guarded(operand) for operand in operands]
        for launch in code.launches:
            pointers = [ctypes.c_void_p(memory[i][1].ctypes.data) for i in launch.operands]
            given = (ctypes.c_void_p * len(pointers))(*(ctypes.addressof(pointer) for pointer in pointers))
            sizes = ((ctypes.c_uint * 3)(*launch.blocks), (ctypes.c_uint * 3)(*launch.threads))
            getattr(library, f"launch_{launch.function}")(*sizes, given, order)
        for everything, inside in memory:
            untouched = everything.size - inside.size
            assert np.count_nonzero(everything == GUARD) - np.count_nonzero(inside == GUARD) == untouched, (
                "something was written outside of an operand"
            )
        return [inside.copy() for _, inside in memory]

    def run(code: DeviceCode, operands: Sequence[np.ndarray]) -> None:
        library = tmp_path / f"{code.launches[0].function}.so"
        library.write_bytes(cuda_on_cpu.cubin(code.text, ""))
        loaded = ctypes.CDLL(str(library))
        forwards, backwards = (once(loaded, code, operands, order) for order in (0, 1))
        for operand, result, other in zip(operands, forwards, backwards, strict=True):
            assert np.array_equal(result, other), "the result depends on the order of threads"
            flat = operand.reshape(-1).view(np.uint8)
            assert operand is operands[-1] or np.array_equal(flat, result), "an input was changed"
            flat[:] = result

    return run
