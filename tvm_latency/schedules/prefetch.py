"""Fetch weights into the cache before they are needed."""

from __future__ import annotations

from math import ceil
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as build

LINE_BYTES = 64
# Weights that are used once are fetched as far ahead as memory needs time to answer (100 ns at 80 GB/s).
AHEAD_ONCE = 8192


def prefetch_weights(weights: Any, panel: Any, panel_bytes: int, step: Any, steps: int, *, once: bool = False) -> None:
    """Fetch what is read next: as far into the next panel as this one is done, `step` of `steps`.

    A hardware prefetcher stops at the end of a 4 KiB page, which halves what one core gets from the level-3 cache, and
    it does not know of the next panel while this one is used again. Behind the last panel lie the next kernel's weights
    (see `tvm_latency.single_call`); fetching an address that does not exist is no error.

    once: every weight is used once, so the next panel is too far ahead.
    """
    step_bytes = ceil(panel_bytes / steps)
    # 32 bits would not do for batches of large images.
    panel, step = (tirx.Cast("int64", value) for value in (panel, step))
    first = panel * panel_bytes + step * step_bytes + (AHEAD_ONCE if once else panel_bytes)
    # llvm.prefetch(address, 0 = read, 2 = into the level-2 cache, 1 = data)
    options = [tirx.const(value, "int32") for value in (0, 2, 1)]
    for line in range(ceil(step_bytes / LINE_BYTES)):
        address = tirx.handle_add_byte_offset(weights.data, first + line * LINE_BYTES)
        build.evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, *options))
