"""What a machine can do at best: multiply-adds from registers, and bytes a second from each level of its memory.

python -m benchmarks.roofline [--target x86] [--threads 1]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import tvm

from benchmarks.loops import LOADS, STEPS, fma_chains, repeated_sum
from benchmarks.pinned import pinned
from targets.registry import get_target
from targets.target import Target

# How many sums are in flight: enough for two units with a latency of four cycles, not more than there are registers.
CHAINS = (8, 10, 12, 16, 24)
# No core of today has more units for multiply-adds of its widest vectors, or a faster clock: what is above was not run.
MOST_UNITS, MOST_HERTZ = 4, 7e9
# Short and many: what else runs on a core interrupts some of them, not all.
SAMPLE_S, SAMPLES = 5e-4, 100


class RooflineError(RuntimeError):
    """A measuring loop did not do its work: the compiler has simplified it, or its result is wrong."""


@dataclass(frozen=True)
class Roofline:
    """Floating-point operations and bytes read a second, by all threads together.

    chains: how many sums in flight gave the most operations.
    bytes_s: by level; each level is read from buffers of half its size, `memory` from four times the last level.
    """

    threads: int
    vector_bits: int
    chains: int
    flops: float
    bytes_s: dict[str, float]

    def bound_s(self, flops: float, traffic: float, l2_bytes: int) -> float:
        """Seconds below which no kernel can be when its data are where they were left by its last call.

        traffic: bytes that it reads and writes; what fits into the L2 caches of its threads counts as there, else as in
        the L3. Writing is taken to be as fast as reading.
        """
        level = "l2" if traffic <= l2_bytes * self.threads else "l3"
        return max(flops / self.flops, traffic / self.bytes_s[level])


def measure_roofline(target: Target) -> Roofline:
    """Measure in this process, which must be pinned to `target.threads` cores and use as many threads.

    Raises:
        RooflineError: a loop was not run as it is written.
    """
    sizes = {
        "l1": target.l1d_bytes // 2,
        "l2": target.l2_bytes // 2,
        "l3": target.l3_bytes // 2 // target.threads,
        "memory": target.l3_bytes * 4 // target.threads,
    }
    rates = {chains: _fma_rate(target, chains) for chains in CHAINS if chains < target.vector_registers}
    chains = max(rates, key=lambda count: rates[count])
    return Roofline(
        threads=target.threads,
        vector_bits=target.vector_bits,
        chains=chains,
        flops=rates[chains],
        bytes_s={level: _read_rate(target, size) for level, size in sizes.items()},
    )


def fma_loop(target: Target, chains: int) -> tuple[Any, list[np.ndarray], int]:
    """A function that does nothing but multiply-adds, its arguments and its floating-point operations."""
    lanes, threads = target.lanes, target.threads
    size = lanes * chains
    arrays = [np.full(shape, 1, np.float32) for shape in ((lanes,), (size,), (threads, size))]
    return fma_chains(lanes, chains, threads), arrays, 2 * threads * size * STEPS


def _fma_rate(target: Target, chains: int) -> float:
    func, arrays, flops = fma_loop(target, chains)
    seconds, out = best_seconds(func, arrays, target)
    # 1 * 1 + 1, and so on: below 2**24 every step counts one.
    _check_result(out, 1 + STEPS)
    rate = flops / seconds
    most = 2 * target.lanes * MOST_UNITS * MOST_HERTZ * target.threads
    if rate > most:
        raise RooflineError(f"{rate / 1e9:.0f} GFLOP/s are more than any core can do: the loop was not run as written.")
    return rate


def _read_rate(target: Target, size: int) -> float:
    """Bytes a second from a buffer of about `size` bytes for each thread."""
    row = target.lanes * LOADS
    blocks = size // (4 * row)
    passes = max(1, (8 << 20) // (4 * row * blocks))
    arrays = [np.full(shape, 1, np.float32) for shape in ((target.threads, blocks, row), (target.threads, row))]
    seconds, out = best_seconds(repeated_sum(target.lanes, blocks, passes, target.threads), arrays, target)
    _check_result(out, passes * blocks)
    return 4 * target.threads * blocks * row * passes / seconds


def _check_result(out: np.ndarray, expected: int) -> None:
    if not (out == expected).all():
        raise RooflineError(f"A measuring loop answered {out.flat[0]:g} where {expected} is right.")


def best_seconds(func: Any, arrays: list[np.ndarray], target: Target) -> tuple[float, np.ndarray]:
    """The fastest of some samples of a function's call, each a mean of many; and what it wrote to its last argument."""
    timed = TimedFunction(func, arrays, target)
    return min(timed.sample() for _ in range(SAMPLES)), timed.output


class TimedFunction:
    """A compiled function with its arguments, warm: every sample is the mean over enough calls to be measurable."""

    def __init__(self, func: Any, arrays: list[np.ndarray], target: Target) -> None:
        attributes = tvm.target.Target(target.tvm_attributes())
        module = tvm.IRModule({"main": func.with_attr("global_symbol", "main")})
        self._module = tvm.compile(module, attributes).mod
        self._tensors = [tvm.runtime.tensor(array) for array in arrays]
        once = self._evaluator(1, 2).results[-1]
        self._number = max(1, round(SAMPLE_S / once))

    def _evaluator(self, number: int, repeat: int) -> Any:
        return self._module.time_evaluator("main", tvm.cpu(), number=number, repeat=repeat)(*self._tensors)

    def sample(self) -> float:
        """Seconds of a call."""
        return float(self._evaluator(self._number, 1).results[0])

    @property
    def output(self) -> np.ndarray:
        """What the last call wrote to its last argument."""
        result: np.ndarray = self._tensors[-1].numpy()
        return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="x86")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    target = get_target(options.target).with_threads(options.threads)
    found = asdict(pinned(target.threads, measure_roofline, target))
    print(f"{target.fingerprint}: {found['flops'] / 1e9:.1f} GFLOP/s in {target.vector_bits}-bit vectors")
    for level, rate in found["bytes_s"].items():
        print(f"  {level:6} {rate / 1e9:7.1f} GB/s")


if __name__ == "__main__":
    main()
