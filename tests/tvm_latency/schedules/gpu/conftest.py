"""Device code, run on a CPU: nothing of what a GPU computes is left out but the GPU."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_latency.device_code import DeviceCode

HEADERS = Path(__file__).parent / "cuda_on_cpu"
# Before and behind each operand; written bytes of it are an error, and read ones NaN.
GUARD_BYTES = 4096
GUARD = 0xFF

COMPILER = (sys.executable, "-m", "ziglang", "c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w")

RunOnCpu = Callable[[DeviceCode, Sequence[np.ndarray]], None]


def _guarded(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All bytes, and those of them that are a copy of the array."""
    everything = np.full(array.nbytes + 2 * GUARD_BYTES + 64, GUARD, np.uint8)
    start = GUARD_BYTES + -(everything.ctypes.data + GUARD_BYTES) % 64
    inside = everything[start : start + array.nbytes]
    inside[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return everything, inside


@pytest.fixture
def run_on_cpu(tmp_path: Path) -> RunOnCpu:
    """Launch device code on operands; what they become is written back into them.

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
        source, library = tmp_path / "kernel.cc", tmp_path / f"{code.launches[0].function}.so"
        launched = "".join(f"LAUNCHED({function})\n" for function in dict.fromkeys(x.function for x in code.launches))
        # C++ has these the other way round.
        text = code.text.replace("__shared__ alignas(64)", "alignas(64) __shared__")
        source.write_text(f'#include "cuda_on_cpu.h"\n{text}\n{launched}')
        words: list[Any] = [*COMPILER, "-I", HEADERS, "-o", library, source]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        loaded = ctypes.CDLL(str(library))
        forwards, backwards = (once(loaded, code, operands, order) for order in (0, 1))
        for operand, result, other in zip(operands, forwards, backwards, strict=True):
            assert np.array_equal(result, other), "the result depends on the order of threads"
            operand.reshape(-1).view(np.uint8)[:] = result

    return run
