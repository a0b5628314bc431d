"""Global mean pooling on a GPU."""

from __future__ import annotations

from functools import partial

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.schedules.gpu.grid import (
    SUM,
    copy,
    digits,
    grid,
    kernel_function,
    lanes_of,
    loaded,
    registers,
    shared,
    wait_for_block,
    where,
    zeros,
)
from tvm_latency.schedules.kernel import Kernel, PoolSpec, Spec
from tvm_latency.schedules.loops import as_type

# Of a block: so many vectors of channels, each with so many threads that share its pixels.
VECTORS, PARTS = 16, 8


def mean_pool(spec: Spec, target: Target) -> Kernel | None:
    """Mean over the pixels of each image.

    for block in image, vectors of channels:
        for part, vector in threads of the block:
            total[channels] = sum of x[p, vector] for p = part, part + parts, ... in pixels
        y[vector] = sum of the parts' / pixels
    """
    if not isinstance(spec, PoolSpec):
        return None
    return Kernel(
        name=f"mean_pool_{spec.suffix}",
        make=lambda: kernel_function(partial(_declare, spec, target)),
        dtype=target.stored,
    )


def _declare(spec: PoolSpec, target: Target) -> None:
    """func(x, y)."""
    pixels, channels, dtype = spec.height * spec.width, spec.channels, target.stored
    x = build.arg("x", build.buffer([spec.batch * pixels, channels], dtype))
    y = build.arg("y", build.buffer([spec.batch, channels], dtype))
    lanes = lanes_of(channels, target.number_bytes)
    vectors = channels // lanes
    groups = -(-vectors // VECTORS)
    with grid(spec.batch * groups, VECTORS * PARTS) as (block, thread):
        image, group = digits(block, groups)
        part, of_group = digits(thread, VECTORS)
        vector = group * VECTORS + of_group
        inside = vector < vectors if vectors % VECTORS else None
        totals, total = shared(PARTS, VECTORS, lanes), zeros(lanes)
        with where(inside):
            with build.serial(-(-pixels // PARTS)) as turn:
                p = turn * PARTS + part
                with where(p < pixels if pixels % PARTS else None):
                    value = loaded(x, [image * pixels + p, vector * lanes], lanes)
                    with build.unroll(lanes) as c:
                        build.buffer_store(total, total[c] + as_type(value[c], SUM), [c])
            with build.unroll(lanes) as c:
                build.buffer_store(totals, total[c], [part, of_group, c])
        wait_for_block()
        with where(inside, part == 0):
            result = registers(lanes, dtype=dtype)
            with build.unroll(lanes) as c:
                with build.serial(PARTS - 1) as other:
                    build.buffer_store(total, total[c] + totals[other + 1, of_group, c], [c])
                mean = total[c] * tirx.const(1.0 / pixels, SUM)
                build.buffer_store(result, as_type(mean, dtype), [c])
            copy(y, [image, vector * lanes], result, [0], lanes)
