"""Fetch weights into the cache before they are needed."""

from __future__ import annotations

from math import ceil
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize

LINE_BYTES = 64
# Weights that are used once are fetched as far ahead as memory needs time to answer (100 ns at 80 GB/s).
AHEAD_ONCE = 8192


def prefetch_weights(func: Any, block: str, weights: Any, panel_bytes: int, uses: int) -> Any:
    """Let the reduction loop around `block` fetch the weights that are read next.

    The function walks over its weights panel by panel, and over each panel `uses` times:

    for panel: for use: for i:             for panel: for use: for i:
        for unrolled, vectorized:   -->        prefetch(weights + as far into the next panel as this one is done)
            acc += ...                         for unrolled, vectorized:
                                                   acc += ...

    A hardware prefetcher stops at the end of a 4 KiB page, which halves what one core gets from the level-3 cache, and
    it does not know of the next panel while this one is used again. Behind the last panel lie the next kernel's weights
    (see `tvm_latency.single_call`); fetching an address that does not exist is no error.
    """

    def rewrite(node: Any, loops: tuple[Any, ...]) -> Any:
        if isinstance(node, tirx.SeqStmt):
            return tirx.SeqStmt([rewrite(statement, loops) for statement in node.seq])
        if isinstance(node, SBlockRealize) and not loops:
            return _with_block_body(node, rewrite(node.block.body, loops))
        if not _is_serial(node) or not _reaches(node, block):
            return node
        loops = (*loops, node)
        body = rewrite(node.body, loops)
        if not _contains_serial(node.body):
            body = tirx.SeqStmt([*_prefetches(weights, loops, panel_bytes, uses), node.body])
        return tirx.For(node.loop_var, node.min, node.extent, node.kind, body, node.thread_binding, node.annotations)

    return func.with_body(rewrite(func.body, ()))


def _prefetches(weights: Any, loops: tuple[Any, ...], panel_bytes: int, uses: int) -> list[Any]:
    """The statements for one step: the bytes of a panel, spread over the steps of all its uses."""
    *outer, reduction = loops
    done = tirx.const(0, "int64")  # 32 bits would not do for batches of large images
    for loop in outer:
        done = done * int(loop.extent) + loop.loop_var.astype("int64")
    panel, use = tirx.floordiv(done, uses), tirx.floormod(done, uses)
    step = use * int(reduction.extent) + reduction.loop_var.astype("int64")
    step_bytes = ceil(panel_bytes / (uses * int(reduction.extent)))
    first = panel * panel_bytes + step * step_bytes + (panel_bytes if uses > 1 else AHEAD_ONCE)
    return [_prefetch(weights, first + line * LINE_BYTES) for line in range(ceil(step_bytes / LINE_BYTES))]


def _prefetch(buffer: Any, offset: Any) -> Any:
    # llvm.prefetch(address, 0 = read, 2 = into the level-2 cache, 1 = data)
    options = (tirx.const(value, "int32") for value in (0, 2, 1))
    address = tirx.handle_add_byte_offset(buffer.data, offset)
    return tirx.Evaluate(tirx.call_llvm_intrin("void", "llvm.prefetch", address, *options))


def _is_serial(node: Any) -> bool:
    return isinstance(node, tirx.For) and node.kind in (tirx.ForKind.SERIAL, tirx.ForKind.PARALLEL)


def _children(node: Any) -> list[Any]:
    if isinstance(node, tirx.SeqStmt):
        return list(node.seq)
    return [node.body] if isinstance(node, tirx.For) else []


def _contains_serial(node: Any) -> bool:
    return _is_serial(node) or any(map(_contains_serial, _children(node)))


def _reaches(node: Any, block: str) -> bool:
    if isinstance(node, SBlockRealize):
        return bool(node.block.name_hint == block)
    return any(_reaches(child, block) for child in _children(node))


def _with_block_body(node: Any, body: Any) -> Any:
    b = node.block
    block = SBlock(
        b.iter_vars, b.reads, b.writes, b.name_hint, body, b.init, b.alloc_buffers, b.match_buffers, b.annotations
    )
    return SBlockRealize(node.iter_values, node.predicate, block)
