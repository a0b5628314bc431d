"""Inverted residual: expand, depthwise and project in one kernel, so that expanded rows never leave the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.schedules.kernel import BlockSpec, Kernel, Spec, bias_size
from tvm_latency.schedules.loops import Part, Pixels, Sums, strips, to_multiply, whole_block, within
from tvm_latency.schedules.pairs import pack_pairs, pair_product, pair_rows, suits_pairs
from tvm_latency.schedules.parts import clipped, pack_panels
from tvm_latency.schedules.ring import Ring, pack_taps
from tvm_latency.schedules.threads import Split, row_bands, wakes
from tvm_latency.schedules.tiles import Product, Tile, even_strip, longest_strip, matmul_tile, terms_together

# How often an image between kernels passes a cache: written, read, and its lines fetched to be written.
WAYS = 3
# What a byte of the level-3 cache costs against one of the second.
L3_FACTOR = 4


def inverted_residual(spec: Spec, target: Target) -> Kernel | None:
    """[Pointwise expand,] depthwise and pointwise project, where the tensor between them is too large for the cache.

    for band:                                                              # on all threads
        ring[blocks, k, width + 2 p, columns] = 0                          # stays in the level-2 cache, as `middle`
        for row of the output:
            for block:
                for the rows of the input that it needs and the ring does not hold:   # each once for a band
                    for strip: ring[block, row % k, strip] = clip(expand(x[row, strip]))
                for strip, vector: middle[strip, vector] = clip(depthwise(ring[block, all rows, strip, vector]))
            for panel, strip: y[row, strip, panel] = clip(project(middle[strip]) + residual)

    Each stage is a tile of sums in registers, as in the kernel of its own. Without an expansion the ring is filled with
    rows of x.
    """
    if not isinstance(spec, BlockSpec) or not _pays(spec, target):
        return None
    nest = _Nest(spec, target)

    stored = spec.project.weights
    expand = [partial(pack_panels, tile=nest.expand, stored=stored)] if spec.expand else []
    taps = partial(pack_taps, tile=nest.ring_tile, stored=stored)
    project = pack_pairs if nest.paired else partial(pack_panels, tile=nest.project)
    packs = (*expand, taps, partial(project, stored=stored))
    return Kernel(name=f"inverted_residual_{spec.suffix}", make=nest.function, packs=packs, dtype=target.stored)


def _pays(spec: BlockSpec, target: Target) -> bool:
    """Whether it costs more to write the expanded image and read it again than to read the weights for every row.

    What the level-1 cache holds costs nothing, and what the second does not about four times as much.
    """
    d, p = spec.depthwise, spec.project
    image = d.height * d.width * d.in_channels * target.number_bytes
    weights = sum(conv.in_channels * conv.out_channels * target.number_bytes for conv in (spec.expand, p) if conv)
    moved = WAYS * image * (1 if image <= target.l2_bytes // 2 else L3_FACTOR)
    again = d.out_height * weights if weights > target.l1d_bytes // 2 else 0
    # The ring, and `middle`.
    row = (d.kernel[0] * (d.width + 2 * d.padding) + d.out_width) * d.in_channels * target.number_bytes
    return moved > again and row <= target.l2_bytes // 2 and d.kernel[0] >= d.stride


class _Nest:
    """The loop nest of one block, stage by stage."""

    def __init__(self, spec: BlockSpec, target: Target) -> None:
        self.spec = spec
        d = spec.depthwise
        self.lanes, self.dtype, self.channels = target.lanes, target.stored, d.in_channels
        self.together = terms_together(target)
        p, e = spec.project, spec.expand
        self.expand = self._tile(target, d.width, e.in_channels if e else 1, self.channels)
        self.project = self._tile(target, d.out_width, self.channels, p.out_channels)
        self.paired = suits_pairs(spec.project.out_channels, self.channels, target.lanes)
        self.ring_tile = replace(self.expand, rows=even_strip(d.out_width, longest_strip(target)))
        self.split = Split(wakes(spec.macs, target.threads), "pixels")

    @staticmethod
    def _tile(target: Target, m: int, k: int, n: int) -> Tile:
        """Of a stage's product; its sums fill whole vectors, those past the last channel are not stored."""
        return matmul_tile(Product.on(target, m, k, n), target.lanes, target.vector_registers, full=True)

    def function(self) -> Any:
        """func(x, [expand weights and bias], depthwise's, project's, [residual], y)."""
        d, p, stored = self.spec.depthwise, self.spec.project, self.spec.project.weights
        pixels, out_pixels = d.batch * d.height * d.width, p.out_pixels
        with IRBuilder() as builder, build.prim_func():
            build.func_name("main")

            def parameter(name: str, *shape: int, dtype: str = self.dtype) -> Any:
                return build.arg(name, build.buffer(shape, dtype))

            def bias(name: str, channels: int) -> Any:
                return parameter(name, bias_size(channels, self.dtype))

            e = self.spec.expand
            self.x = parameter("x", pixels, e.in_channels if e else self.channels)
            if e:
                panels = (self.expand.blocks(self.channels), e.in_channels, self.expand.columns)
                self.expand_weights = parameter("expand_weights", *panels, dtype=stored)
                self.expand_bias = bias("expand_bias", self.channels)
            taps = (self.ring_tile.blocks(self.channels), *d.kernel, self.ring_tile.columns)
            self.taps = parameter("taps", *taps, dtype=stored)
            self.depthwise_bias = bias("depthwise_bias", self.channels)
            panels = (self.project.blocks(p.out_channels), self.channels, self.project.columns)
            pairs = (self.channels // 2, 2 * p.out_channels)
            self.project_weights = parameter("project_weights", *(pairs if self.paired else panels), dtype=stored)
            self.project_bias = bias("project_bias", p.out_channels)
            self.residual = parameter("residual", out_pixels, p.out_channels) if p.residual else None
            self.y = parameter("y", out_pixels, p.out_channels)
            row_bands(d.batch, d.out_height, self.split, self._band)
        return whole_block(builder.get())

    def _band(self, image: Any, first: Any, last: Any) -> None:
        """Rows of the output from first to last of one image."""
        d, count = self.spec.depthwise, self.ring_tile.blocks(self.channels)
        self.ring = Ring(d, self.ring_tile, count, self.dtype, self.together)
        plane = 1 if self.paired else self.together
        self.middle = Pixels((), d.out_width, count * self.ring_tile.columns, plane, self.dtype)
        taps, self.project_panels = (
            to_multiply(stored, self.dtype, self.lanes) for stored in (self.taps, self.project_weights)
        )
        if self.spec.expand:
            self.expand_panels = to_multiply(self.expand_weights, self.dtype, self.lanes)

        def output_row(row: Any, full: Callable[[], Any]) -> None:
            def store(pixel: Any, channel: Any, value: Any) -> None:
                self.middle.store(clipped(value, d.clip), pixel, channel)

            with build.serial(count) as block:
                self._fill(block, image, row)
                with full():
                    # `middle` has room for what is past the last channel.
                    of_block = Part(taps, (block,))
                    self.ring.convolve(block, row, of_block, self.depthwise_bias, store, whole=True)
            with full():
                self._project(image, row)

        self.ring.each_row(first, last, output_row)

    def _fill(self, block: Any, image: Any, row: Any) -> None:
        """Those rows of the ring that an output row needs, out of x."""
        e, height, width = self.spec.expand, self.spec.depthwise.height, self.spec.depthwise.width
        if e is None:
            self.ring.copy(block, image, row, self.x)
            return
        first = block * self.ring_tile.columns

        def expanded(source: Any, at: Any, length: int, store: Any) -> None:
            pixel = (image * height + source) * width + at

            def tile(channels: int) -> None:
                sums = Sums(length, channels, self.lanes, lambda c: self.expand_bias[first + c])
                sums.add_product(
                    e.in_channels,
                    lambda r, i: self.x[pixel + r, i],
                    lambda i, c: self.expand_panels[block, i, c],
                    together=self.together,
                )
                sums.each(lambda r, c, value: store(r, c, clipped(value, e.clip)))

            within(block, self.channels, self.ring_tile.columns, tile)

        self.ring.fill(block, self.expand.rows, row, expanded)

    def _project(self, image: Any, row: Any) -> None:
        d, p, lanes = self.spec.depthwise, self.spec.project, self.lanes
        first = (image * d.out_height + row) * d.out_width

        def store(pixel: Any, channel: Any, value: Any) -> None:
            result = value if self.residual is None else value + self.residual[first + pixel, channel]
            build.buffer_store(self.y, clipped(result, p.clip), [first + pixel, channel])

        def paired(at: Any, length: int) -> None:
            def pair(r: Any, i: Any) -> Any:
                return self.middle[at + r, tirx.Ramp(2 * i, 1, 2)]

            def biased(r: Any, c: Any, value: Any) -> None:
                store(at + r, c, value + self.project_bias[c])

            weights = self.project_panels
            pair_product(length, p.out_channels, self.channels, lanes, pair, lambda i, c: weights[i, c], biased)

        def tile(panel: int, at: Any, length: int) -> None:
            channel = panel * self.project.columns
            columns = min(self.project.columns, p.out_channels - channel)

            sums = Sums(length, columns, lanes, lambda c: self.project_bias[channel + c])
            sums.add_product(
                self.channels,
                lambda r, i: self.middle[at + r, i],
                lambda i, c: self.project_panels[panel, i, c],
                together=self.together,
            )
            sums.each(lambda r, c, value: store(at + r, channel + c, value))

        if self.paired:
            strips(d.out_width, pair_rows(p.out_channels, lanes), paired)
            return
        for panel in range(self.project.blocks(p.out_channels)):
            strips(d.out_width, self.project.rows, partial(tile, panel))
