"""Inverted residual: expand, depthwise and project in one kernel, so that expanded rows never leave the cache."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, FloatArray, Kernel, Pack, PackedArray, Spec, bias_size
from tvm_latency.schedules.loops import Sums, strips, vectors, whole_block
from tvm_latency.schedules.pairs import pack_pairs, pair_product, pair_rows, suits_pairs
from tvm_latency.schedules.parts import FLOAT, clipped, packed, zero_padded
from tvm_latency.schedules.threads import PARALLEL_MACS
from tvm_latency.schedules.tiles import Product, Tile, even_strip, matmul_tiles, store_vector


def inverted_residual(spec: Spec, target: Target, tile: Tile | None = None) -> Kernel | None:
    """[Pointwise expand,] depthwise and pointwise project, where the tensor between them is too large for the cache.

    for band:                                                              # on all threads
        ring[blocks, k, width + 2 p, columns] = 0                          # stays in the level-2 cache, as `middle`
        for row of the output:
            for block:
                for the rows of the input that it needs and the ring does not hold:        # none is computed twice
                    for strip: ring[block, row % k, strip] = clip(expand(x[row, strip]))
                for strip, vector: middle[strip, vector] = clip(depthwise(ring[block, all rows, strip, vector]))
            for panel, strip: y[row, strip, panel] = clip(project(middle[strip]) + residual)

    Each stage is a tile of sums in registers, as in the kernel of its own. Without an expansion the ring is filled with
    rows of x.
    """
    if not isinstance(spec, BlockSpec) or not _pays(spec, target):
        return None
    nest = _Nest(spec, target)

    def pack_panels(tile: Tile) -> Pack:
        def pack(weights: FloatArray) -> PackedArray:
            panels = zero_padded(weights[:, :, 0, 0], tile).reshape(-1, tile.columns, weights.shape[1])
            return packed(panels.transpose(0, 2, 1), spec.project.weights)

        return pack

    def pack_taps(weights: FloatArray) -> PackedArray:
        padding = [(0, nest.columns - nest.channels), (0, 0), (0, 0)]
        return packed(np.pad(weights[:, 0], padding).transpose(1, 2, 0), spec.project.weights)

    def pack_project(weights: FloatArray) -> PackedArray:
        return pack_pairs(weights[:, :, 0, 0], spec.project.weights)

    expand = [pack_panels(nest.expand)] if spec.expand else []
    project = pack_project if nest.paired else pack_panels(nest.project)
    name = f"inverted_residual_{spec.suffix}"
    return Kernel(name=name, make=nest.function, packs=(*expand, pack_taps, project))


def _pays(spec: BlockSpec, target: Target) -> bool:
    """Whether the expanded image leaves the level-2 cache, and some rows of it do not."""
    d = spec.depthwise
    image = d.height * d.width * d.in_channels * 4
    # The ring, and `middle`.
    row = (d.kernel[0] * (d.width + 2 * d.padding) + d.out_width) * d.in_channels * 4
    fits = row <= target.l2_bytes // 2 < image
    return fits and d.kernel[0] >= d.stride


class _Nest:
    """The loop nest of one block, stage by stage."""

    def __init__(self, spec: BlockSpec, target: Target) -> None:
        self.spec = spec
        d = spec.depthwise
        self.lanes, self.channels = target.lanes, d.in_channels
        # Of ring and `middle`: the last vector is filled up with zeros.
        self.columns = self._filled(self.channels)
        self.ring_rows = d.kernel[0]
        p, e = spec.project, spec.expand
        self.expand = self._tile(target, d.width, e.in_channels if e else 1, self.channels)
        self.project = self._tile(target, d.out_width, self.channels, p.out_channels)
        self.paired = suits_pairs(spec.project.out_channels, self.channels, target.lanes)
        self.strip = even_strip(d.out_width, target.vector_registers // 2)
        parallel = target.threads > 1 and spec.macs >= PARALLEL_MACS
        self.bands = min(d.out_height, target.threads) if parallel else 1

    @staticmethod
    def _tile(target: Target, m: int, k: int, n: int) -> Tile:
        """Of a stage's product; its sums fill whole vectors, those past the last channel are not stored."""
        tiles = matmul_tiles(Product(m, k, n, target.l1d_bytes), target.lanes, target.vector_registers)
        return next(tile for tile in tiles if tile.vector == target.lanes)

    def function(self) -> Any:
        """func(x, [expand weights and bias], depthwise's, project's, [residual], y)."""
        d, p, stored = self.spec.depthwise, self.spec.project, self.spec.project.weights
        pixels, out_pixels = d.batch * d.height * d.width, p.out_pixels
        with IRBuilder() as builder, build.prim_func():
            build.func_name("main")

            def parameter(name: str, *shape: int, dtype: str = FLOAT) -> Any:
                return build.arg(name, build.buffer(shape, dtype))

            e = self.spec.expand
            self.x = parameter("x", pixels, e.in_channels if e else self.channels)
            if e:
                panels = (self.expand.blocks(self.channels), e.in_channels, self.expand.columns)
                self.expand_weights = parameter("expand_weights", *panels, dtype=stored)
                self.expand_bias = parameter("expand_bias", bias_size(self.channels))
            self.taps = parameter("taps", *d.kernel, self.columns, dtype=stored)
            self.depthwise_bias = parameter("depthwise_bias", bias_size(self.channels))
            panels = (self.project.blocks(p.out_channels), self.channels, self.project.columns)
            pairs = (self.channels // 2, 2 * p.out_channels)
            self.project_weights = parameter("project_weights", *(pairs if self.paired else panels), dtype=stored)
            self.project_bias = parameter("project_bias", bias_size(p.out_channels))
            self.residual = parameter("residual", out_pixels, p.out_channels) if p.residual else None
            self.y = parameter("y", out_pixels, p.out_channels)
            if self.bands * d.batch == 1:
                self._band(0, 0, d.out_height)
            else:
                loop = build.parallel if self.bands > 1 else build.serial
                with loop(d.batch * self.bands) as index:
                    image, band = tirx.floordiv(index, self.bands), tirx.floormod(index, self.bands)
                    first, last = (tirx.floordiv(b * d.out_height, self.bands) for b in (band, band + 1))
                    self._band(image, first, last)
        return whole_block(builder.get())

    def _band(self, image: Any, first: Any, last: Any) -> None:
        """Rows of the output from first to last of one image."""
        d, columns = self.spec.depthwise, self.expand.columns
        width = d.width + 2 * d.padding
        shape = (self.expand.blocks(self.channels), self.ring_rows, width, columns)
        self.ring = build.alloc_buffer(shape, FLOAT)
        self.middle = build.alloc_buffer((d.out_width, self.columns), FLOAT)
        with build.serial(shape[0]) as block, build.serial(self.ring_rows) as slot:
            if self.spec.expand is None and self.columns > self.channels:  # nothing else is written past the last one
                self._clear(block, columns, slot, 0, width)
            elif d.padding:
                self._clear(block, columns, slot, 0, d.padding)
                self._clear(block, columns, slot, d.width + d.padding, d.padding)
        kept = self.ring_rows - d.stride
        with build.serial(kept) as new:
            self._each_block(lambda block, n: self._fill(block, n, image, first * d.stride + new))
        with build.serial(last - first) as index:
            row = first + index

            def row_of_block(block: Any, n: int) -> None:
                with build.serial(d.stride) as new:
                    self._fill(block, n, image, row * d.stride + kept + new)
                self._depthwise(block, n, row)

            self._each_block(row_of_block)
            self._project(image, row)

    def _each_block(self, body: Callable[[Any, int], None]) -> None:
        """body(block, its channels) for each block of expanded channels; the last may have fewer."""
        strips(self.channels, self.expand.columns, lambda at, n: body(tirx.floordiv(at, self.expand.columns), n))

    def _clear(self, block: Any, columns: int, slot: Any, first: int, length: int) -> None:
        """Zeros in a row of the ring."""
        zero = tirx.const(0, FLOAT)
        with build.serial(length) as q:
            vectors(1, columns, self.lanes, lambda _, c: self._store(block, slot, first + q, c, zero))

    def _fill(self, block: Any, columns: int, image: Any, row: Any) -> None:
        """One row of the ring, `row` counted with the padding above: that of the expanded image, or zeros outside."""
        d, slot = self.spec.depthwise, tirx.floormod(row, self.ring_rows)
        source = (image * d.height + row - d.padding) * d.width

        def inside() -> None:
            strips(d.width, self.expand.rows, lambda at, n: self._fill_strip(block, columns, slot, source, at, n))

        if not d.padding:
            inside()
            return
        with build.If(tirx.all(row >= d.padding, row < d.height + d.padding)):
            with build.Then():
                inside()
            with build.Else():
                self._clear(block, self._filled(columns), slot, d.padding, d.width)

    def _filled(self, columns: int) -> int:
        """Up to whole vectors."""
        return -(-columns // self.lanes) * self.lanes

    def _store(self, block: Any, slot: Any, column: Any, channel: Any, value: Any) -> None:
        build.buffer_store(self.ring, value, [block, slot, column, channel])

    def _fill_strip(self, block: Any, columns: int, slot: Any, source: Any, at: Any, length: int) -> None:
        e, x, first = self.spec.expand, self.x, block * self.expand.columns

        def store(value: Any, r: Any, c: Any) -> None:
            self._store(block, slot, self.spec.depthwise.padding + at + r, c, value)

        if e is None:
            vector = store_vector(columns, self.lanes)
            vectors(length, columns, vector, lambda r, c: store(x[source + at + r, first + c], r, c))
            return

        sums = Sums(length, self._filled(columns), self.lanes, lambda c: self.expand_bias[first + c])
        with build.serial(e.in_channels) as i:
            sums.add(lambda r, c: x[source + at + r, i] * self.expand_weights[block, i, c].astype(FLOAT))
        sums.each(self.lanes, lambda r, c, value: store(clipped(value, e.clip), r, c))

    def _depthwise(self, block: Any, columns: int, row: Any) -> None:
        d = self.spec.depthwise

        def strip(vector: Any, at: Any, length: int) -> None:
            first = block * self.expand.columns + vector * self.lanes

            sums = Sums(length, self.lanes, self.lanes, lambda c: self.depthwise_bias[first + c])
            with build.serial(d.kernel[0]) as ky, build.unroll(d.kernel[1]) as kx:
                slot = tirx.floormod(row * d.stride + ky, self.ring_rows)

                def product(r: Any, c: Any) -> Any:
                    value = self.ring[block, slot, (at + r) * d.stride + kx, vector * self.lanes + c]
                    return value * self.taps[ky, kx, first + c].astype(FLOAT)

                sums.add(product)

            def store(r: Any, c: Any, value: Any) -> None:
                build.buffer_store(self.middle, clipped(value, d.clip), [at + r, first + c])

            sums.each(self.lanes, store)

        with build.serial(self._filled(columns) // self.lanes) as vector:
            strips(d.out_width, self.strip, lambda at, n: strip(vector, at, n))

    def _project(self, image: Any, row: Any) -> None:
        d, p, lanes = self.spec.depthwise, self.spec.project, self.lanes
        first = (image * d.out_height + row) * d.out_width

        def store(pixel: Any, channel: Any, value: Any) -> None:
            result = value if self.residual is None else value + self.residual[first + pixel, channel]
            build.buffer_store(self.y, clipped(result, p.clip), [first + pixel, channel])

        def paired(at: Any, length: int) -> None:
            def weights(i: Any, c: Any) -> Any:
                return self.project_weights[i, c].astype(f"{FLOAT}x{lanes}")

            def pair(r: Any, i: Any) -> Any:
                return self.middle[at + r, tirx.Ramp(2 * i, 1, 2)]

            def biased(r: Any, c: Any, value: Any) -> None:
                store(at + r, c, value + self.project_bias[c])

            pair_product(length, p.out_channels, self.channels, lanes, pair, weights, biased)

        def tile(panel: int, at: Any, length: int) -> None:
            channel = panel * self.project.columns
            columns = min(self.project.columns, p.out_channels - channel)

            sums = Sums(length, columns, lanes, lambda c: self.project_bias[channel + c])
            with build.serial(self.channels) as i:
                sums.add(lambda r, c: self.middle[at + r, i] * self.project_weights[panel, i, c].astype(FLOAT))
            sums.each(self.project.store, lambda r, c, value: store(at + r, channel + c, value))

        if self.paired:
            strips(d.out_width, pair_rows(p.out_channels, lanes), paired)
            return
        for panel in range(self.project.blocks(p.out_channels)):
            strips(d.out_width, self.project.rows, partial(tile, panel))
