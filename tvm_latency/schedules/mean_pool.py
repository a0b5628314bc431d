"""Global mean pooling over [pixels, channels]."""

from __future__ import annotations

from tvm import te, tirx

from targets.target import Target
from tvm_latency.schedules.kernel import Kernel, PoolSpec, Spec
from tvm_latency.schedules.parts import schedule, vectorize_columns
from tvm_latency.schedules.tiles import Product, matmul_tile, store_vector


def mean_pool(spec: Spec, target: Target) -> Kernel | None:
    """Mean over the pixels of each image.

    for n, channel_block:
        total[columns] = 0                                # registers, float32
        for p in pixels: for v in unrolled(columns / vector):
            total[v] += x[n * pixels + p, v]
        y[n, channel_block] = total / pixels
    """
    if not isinstance(spec, PoolSpec):
        return None
    pixels = spec.height * spec.width
    single = target.with_dtype("float32")
    product = Product.on(single, 1, pixels, spec.channels, by_lane=False)
    tile = matmul_tile(product, single.lanes, single.vector_registers)
    x = te.placeholder((spec.batch * pixels, spec.channels), target.stored, "x")
    p = te.reduce_axis((0, pixels), "p")
    shape = (spec.batch, spec.channels)
    total = te.compute(shape, lambda n, c: te.sum(x[n * pixels + p, c].astype("float32"), axis=p), name="total")
    mean = tirx.const(1.0 / pixels, "float32")
    y = te.compute(shape, lambda n, c: (total[n, c] * mean).astype(target.stored), name="y")
    s = schedule([x, y])
    total_block, y_block = s.get_sblock("total"), s.get_sblock("y")
    _, channel = s.get_loops(y_block)
    channel_block, column = s.split(channel, [None, tile.columns])
    vectorize_columns(s, column, store_vector(spec.channels, tile.vector))
    s.compute_at(total_block, channel_block, preserve_unit_loops=True)
    column, reduction = s.get_loops(total_block)[-2:]
    s.reorder(reduction, column)
    vectorize_columns(s, column, tile.vector)
    s.decompose_reduction(total_block, reduction)
    return Kernel(name=f"mean_pool_{spec.suffix}", make=lambda: s.mod["main"], dtype=target.stored)
