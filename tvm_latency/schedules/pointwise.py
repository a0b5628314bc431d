"""Pointwise convolution and linear layers: a matrix product over pixels with packed weights."""

from __future__ import annotations

from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from targets.target import Target
from tvm_latency.opspec import WEIGHT_BYTES
from tvm_latency.schedules.kernel import ConvSpec, Kernel, Spec, bias_size
from tvm_latency.schedules.loops import (
    Before,
    Factor,
    Sums,
    as_type,
    blocks,
    nothing,
    strips,
    to_multiply,
    vectors,
    whole_block,
)
from tvm_latency.schedules.parts import clipped, pack_panels
from tvm_latency.schedules.prefetch import prefetch_weights
from tvm_latency.schedules.threads import Split, split_of
from tvm_latency.schedules.tiles import Product, Tile, matmul_tile


def pointwise(spec: Spec, target: Target) -> Kernel | None:
    """1x1 convolution, stride 1, no padding, one group; a linear layer is one over a single pixel.

    The weights are packed in panels [blocks, in, columns]; zeros fill up the last one:

        for band of pixels:                                                   # one for each thread
            for panel, strip of pixels:                                       # or strip, panel: see below
                acc[rows, columns] = bias                                     # registers
                for i in in_channels:
                    prefetch(a line of the next panel)
                    for r, v in unrolled(rows, columns / vector):
                        acc[r, v] += x[strip + r, i] * panel_weights[i, v]
                y[strip, panel] = clip(acc + residual)

    Strips go outermost where all weights stay in the level-1 cache. Of few pixels each thread takes all, and some of
    the panels.
    """
    if not isinstance(spec, ConvSpec) or not spec.pointwise:
        return None
    split = split_of(spec, target.threads)
    product = share_of(spec, split, target)
    tile = matmul_tile(product, target.lanes, target.vector_registers)

    return Kernel(
        name=f"pointwise_{spec.suffix}",
        make=lambda: _Nest(spec, tile, split, product, target).function(),
        packs=(partial(pack_panels, tile=tile, stored=spec.weights),),
        dtype=target.stored,
    )


def share_of(spec: ConvSpec, split: Split, target: Target) -> Product:
    """The product that one thread computes, whose tile all take."""
    m, n = split.share(spec.out_pixels, "pixels"), split.share(spec.out_channels, "channels")
    return Product.on(target, m, spec.in_channels, n)


class _Nest:
    """The loop nest of one product."""

    def __init__(self, spec: ConvSpec, tile: Tile, split: Split, product: Product, target: Target) -> None:
        self.spec, self.tile, self.split, self.dtype = spec, tile, split, target.stored
        self.m, self.k, self.n = spec.out_pixels, spec.in_channels, spec.out_channels
        self.panels = tile.blocks(self.n)
        self.together = product.together if tile.vector == product.together else 1
        self.panel_bytes = self.k * tile.columns * WEIGHT_BYTES[spec.weights]
        shares_panels = split.threads > 1 and split.axis == "channels"
        self.strips_outermost = product.strips_outermost(tile) and not shares_panels
        self.fetches = self.panels * self.panel_bytes > target.l1d_bytes // 2

    def function(self) -> Any:
        """func(x, weights, bias, [residual], y)."""
        m, k, n = self.m, self.k, self.n
        with IRBuilder() as builder, build.prim_func():
            build.func_name("main")
            self.x = build.arg("x", build.buffer([m, k], self.dtype))
            self.weights = build.arg("weights", build.buffer([self.panels, k, self.tile.columns], self.spec.weights))
            self.bias = build.arg("bias", build.buffer([bias_size(n, self.dtype)], self.dtype))
            self.residual = build.arg("residual", build.buffer([m, n], self.dtype)) if self.spec.residual else None
            self.y = build.arg("y", build.buffer([m, n], self.dtype))
            self.split.bands(m, self._band)
        return whole_block(builder.get())

    def _band(self, start: Any, pixels: int) -> None:
        (self._strips_outermost if self.strips_outermost else self._panels_outermost)(start, pixels)

    def _strips_outermost(self, start: Any, pixels: int) -> None:
        weights = to_multiply(self.weights, self.dtype, self.tile.vector)

        def panels_of(at: Any, rows: int) -> None:
            def tile(panel: Any, columns: int) -> None:
                self._tile(lambda i, c: weights[panel, i, c], panel, columns, start + at, rows)

            blocks(self.n, self.tile.columns, tile)

        strips(pixels, self.tile.rows, panels_of)

    def _panels_outermost(self, start: Any, pixels: int) -> None:
        tile_rows, uses = self.tile.rows, -(-pixels // self.tile.rows)

        def strips_of(panel: Any, columns: int) -> None:
            def stored(i: Any, c: Any) -> Any:
                return as_type(self.weights[panel, i, c], self.dtype)

            def tile(weight: Factor, at: Any, rows: int, convert: Before = nothing) -> None:
                def before(first: Any, terms: int) -> None:
                    self._prefetch(panel, tirx.floordiv(at, tile_rows), first, terms, uses)
                    convert(first, terms)

                self._tile(weight, panel, columns, start + at, rows, before)

            if self.spec.weights == self.dtype or uses == 1:  # what is used once is converted where it is used
                strips(pixels, tile_rows, partial(tile, stored))
                return
            copy = build.alloc_buffer([self.k, self.tile.columns], self.dtype)

            def convert(first: Any, terms: int) -> None:
                for i in (first + term for term in range(terms)):

                    def cell(_: Any, c: Any, i: Any = i) -> None:
                        build.buffer_store(copy, stored(i, c), [i, c])

                    vectors(1, self.tile.columns, self.tile.vector, cell)

            def copied(i: Any, c: Any) -> Any:
                return copy[i, c]

            # The first strip converts as it goes: beside its multiply-adds that takes hardly any time.
            tile(copied, 0, tile_rows, convert)
            strips(pixels, tile_rows, partial(tile, copied), tile_rows)

        blocks(self.n, self.tile.columns, strips_of, self.split.loop("channels"))

    def _prefetch(self, panel: Any, use: Any, first: Any, terms: int, uses: int) -> None:
        """At the step of that strip which adds so many terms from the first on."""
        if self.fetches and terms == self.together:
            steps = self.k // terms
            step = use * steps + (first if terms == 1 else tirx.floordiv(first, terms))
            prefetch_weights(self.weights, panel, self.panel_bytes, step, uses * steps, once=uses == 1)

    def _tile(self, weight: Factor, panel: Any, columns: int, at: Any, rows: int, before: Before = nothing) -> None:
        first = panel * self.tile.columns
        sums = Sums(rows, columns, self.tile.vector, lambda c: self.bias[first + c])

        def x(r: Any, i: Any) -> Any:
            return self.x[at + r, i]

        sums.add_product(self.k, x, weight, together=self.together, before=before)

        def store(r: Any, c: Any, value: Any) -> None:
            value = value if self.residual is None else value + self.residual[at + r, first + c]
            build.buffer_store(self.y, clipped(value, self.spec.clip), [at + r, first + c])

        sums.each(store)
