"""Depthwise convolution and the pointwise one behind it as one kernel on a GPU's scalar units."""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.schedules.gpu.depthwise import pack_taps, strip
from tvm_latency.schedules.gpu.grid import (
    copy,
    digits,
    kernel_function,
    loaded,
    registers,
    shared,
    wait_for_block,
    where,
)
from tvm_latency.schedules.gpu.product import Nest, pack_panels
from tvm_latency.schedules.gpu.tiles import CHUNK, COLUMNS, ProductTile, fused_tile
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Kernel, Spec, bias_size
from tvm_latency.schedules.parts import clipped


def depthwise_product(spec: Spec, target: Target) -> Kernel | None:
    """Depthwise and pointwise project in float32, where the estimate says that a launch less is worth more.

    The product is that of `product`, whose rows are computed in turns into shared memory, by all threads of a block:

        for block of pixels, panel in blocks of the grid:
            acc[rows, columns] = 0                                              # registers of each thread
            for chunk of the channels:
                middle[pixels, chunk] = clip(depthwise(x) + its bias)           # shared memory
                for part, row, column in threads of a block:
                    for step of the part in the chunk: acc += middle[row, step] panel_weights[step, column]
            y[row, column] = clip(sum of acc over the parts + bias + residual)

    What several panels need, each computes again.
    """
    if not isinstance(spec, BlockSpec) or spec.expand is not None:
        return None
    tile = fused_tile(spec, target)
    if tile is None:
        return None
    return Kernel(
        name=f"depthwise_product_{spec.suffix}",
        make=lambda: kernel_function(lambda: _Fused(spec, tile, target).run()),
        packs=(
            partial(pack_taps, stored=spec.depthwise.weights),
            partial(pack_panels, tile=tile, stored=spec.project.weights),
        ),
        dtype=target.stored,
    )


class _Fused(Nest):
    """The kernel of one product, whose input is computed where it is read."""

    def __init__(self, spec: BlockSpec, tile: ProductTile, target: Target) -> None:
        super().__init__(spec.project, tile, target)
        self.depthwise = spec.depthwise

    def inputs(self) -> None:
        """x, and taps and bias of the depthwise convolution."""
        first, channels = self.depthwise, self.k
        self.x = build.arg("x", build.buffer([first.batch * first.height * first.width, channels], self.dtype))
        self.taps = build.arg("taps", build.buffer([*first.kernel, channels], first.weights))
        self.taps_bias = build.arg("taps_bias", build.buffer([bias_size(channels, self.dtype)], self.dtype))

    def sums(self, thread: Any) -> Any:
        """Of this thread's terms."""
        tile, chunk = self.tile, CHUNK * self.tile.parts
        # Rows do not begin in the same bank.
        self.middle = shared(tile.block_rows, chunk + COLUMNS)
        acc, add = self.adder()
        with build.serial(-(-self.k // chunk)) as turn:
            self._fill(turn * chunk, chunk, thread)
            wait_for_block()
            with build.serial(CHUNK // COLUMNS) as step:
                local = self.part * CHUNK + step * COLUMNS
                term = turn * chunk + local
                with where(term < self.k if self.k % chunk else None):
                    add(term, self.middle, lambda row: [row, local])
            wait_for_block()
        return acc

    def _fill(self, first: Any, chunk: int, thread: Any) -> None:
        """middle[pixels of the block, channels from the first on]."""
        spec, tile, vectors = self.depthwise, self.tile, chunk // COLUMNS
        count = tile.block_rows * vectors
        with build.serial(-(-count // tile.threads)) as turn:
            number = turn * tile.threads + thread
            row, vector = digits(number, vectors)
            channel = first + vector * COLUMNS
            with where(number < count if count % tile.threads else None, channel < self.k if self.k % chunk else None):
                image, y, column = digits(self.block.inside(row), spec.out_height, spec.out_width)
                into = _Middle(spec, self.middle, self.taps_bias, row, vector * COLUMNS)
                strip(spec, self.x, self.taps, into, (image, y, column, channel), 1, COLUMNS)


class _Middle:
    """Where a depthwise convolution's sums go: the place of a row in shared memory."""

    def __init__(self, spec: ConvSpec, middle: Any, bias: Any, row: Any, column: Any) -> None:
        self.spec, self.middle, self.bias, self.row, self.column = spec, middle, bias, row, column

    def store(self, pixel: Any, channel: Any, lanes: int, value: Any) -> None:
        """As `Output.store`."""
        bias, result = loaded(self.bias, [channel], lanes), registers(lanes)
        with build.unroll(lanes) as c:
            build.buffer_store(result, clipped(value(c) + bias[c], self.spec.clip), [c])
        copy(self.middle, [self.row, self.column], result, [0], lanes)
