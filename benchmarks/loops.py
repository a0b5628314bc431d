"""The two loops that measure what a core can do, as TVM compiles them.

Unrolled vectors of a buffer in scope "local" become registers. What every loop answers counts its steps, so one that
the compiler cut short is noticed.
"""

from __future__ import annotations

from typing import Any

from tvm.script import tirx as T  # noqa: N812  (TVMScript's name for it everywhere)

STEPS = 20_000
LOADS = 8


def fma_chains(lanes: int, chains: int, threads: int) -> Any:
    """`chains` vectors v = v * x + x for `STEPS` steps, in registers, on each thread."""
    size = lanes * chains

    @T.prim_func
    def main(
        x: T.Buffer((lanes,), "float32"),
        start: T.Buffer((size,), "float32"),
        out: T.Buffer((threads, size), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        for t in T.parallel(threads):
            v = T.alloc_buffer((size,), "float32", scope="local")
            for c in T.unroll(chains):
                for i in T.vectorized(lanes):
                    v[c * lanes + i] = start[c * lanes + i]
            for _ in T.serial(STEPS):
                for c in T.unroll(chains):
                    for i in T.vectorized(lanes):
                        v[c * lanes + i] = v[c * lanes + i] * x[i] + x[i]
            for c in T.unroll(chains):
                for i in T.vectorized(lanes):
                    out[t, c * lanes + i] = v[c * lanes + i]

    return main


def repeated_sum(lanes: int, blocks: int, passes: int, threads: int) -> Any:
    """Each thread adds up `blocks` rows of LOADS vectors of its own, `passes` times."""
    size = lanes * LOADS

    @T.prim_func
    def main(
        x: T.Buffer((threads, blocks, size), "float32"),
        out: T.Buffer((threads, size), "float32"),
    ) -> None:
        T.func_attr({"tirx.noalias": True})
        for t in T.parallel(threads):
            v = T.alloc_buffer((size,), "float32", scope="local")
            for c in T.unroll(LOADS):
                for i in T.vectorized(lanes):
                    v[c * lanes + i] = T.float32(0)
            for _ in T.serial(passes):
                for b in T.serial(blocks):
                    for c in T.unroll(LOADS):
                        for i in T.vectorized(lanes):
                            v[c * lanes + i] = v[c * lanes + i] + x[t, b, c * lanes + i]
            for c in T.unroll(LOADS):
                for i in T.vectorized(lanes):
                    out[t, c * lanes + i] = v[c * lanes + i]

    return main
