"""Depthwise convolution out of a ring: the rows of a padded image that are in use, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as build
from tvm.sym import Analyzer

from targets.target import Stored
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, PackedArray, packed
from tvm_latency.schedules.loops import Pixels, Sums, strips, vectors, within
from tvm_latency.schedules.parts import zero_padded
from tvm_latency.schedules.tiles import Tile


def pack_taps(weights: FloatArray, tile: Tile, stored: WeightType) -> PackedArray:
    """[channels, 1, k, k]  -->  [blocks, k, k, columns], zeros for what the last block lacks."""
    blocks = zero_padded(weights[:, 0], tile).reshape(-1, tile.columns, *weights.shape[2:])
    return packed(blocks.transpose(0, 2, 3, 1), stored)


@contextmanager
def _when(condition: Any) -> Iterator[None]:
    with build.If(condition), build.Then():
        yield


class Ring:
    """ring[blocks, k, width + 2 p, columns]: row r of the padded image lies in slot r % k.

    tile: a strip of output pixels x the channels of a block. Blocks lie side by side, or if there is room for one only
    (`blocks` = 1), take turns in it. plane: see `Pixels`.
    """

    def __init__(self, spec: ConvSpec, tile: Tile, blocks: int, dtype: Stored, plane: int) -> None:
        self.spec, self.tile, self.blocks, self.dtype = spec, tile, blocks, dtype
        self.rows = spec.kernel[0]
        self.width = spec.width + 2 * spec.padding
        # What an output row finds in the ring, what has to be added, and how many rows earlier to begin.
        self._kept = max(self.rows - spec.stride, 0)
        self._new = self.rows - self._kept
        self._early = -(-self._kept // self._new)
        self.buffer = Pixels((blocks, self.rows), self.width, tile.columns, plane, dtype)
        with build.serial(blocks) as place, build.serial(self.rows) as slot:
            if spec.in_channels % tile.vector:  # a fill may write the channels there are, and no more
                self._clear(place, slot, 0, self.width)
            elif spec.padding:
                self._clear(place, slot, 0, spec.padding)
                self._clear(place, slot, spec.width + spec.padding, spec.padding)

    def each_row(self, first: Any, last: Any, body: Callable[[Any, Callable[[], Any]], None]) -> None:
        """body(row, full) for the rows of the output, and for some before them for which the ring is only filled.

        What reads the ring stands in `with full():`.
        """
        with build.serial(Analyzer().simplify(last - first + self._early)) as index:
            row = first + index - self._early
            body(row, (lambda: _when(index >= self._early)) if self._early else nullcontext)

    def fill(self, block: Any, rows: int, row: Any, fill_strip: Callable[..., None]) -> None:
        """Write what an output row needs and the ring does not hold; zeros outside of the image.

        Inside, fill_strip(source row, at, length, store) is called for strips of `rows` pixels; it calls
        store(pixel of the strip, channel of the block, value).
        """
        with build.serial(self._new) as new:
            self._fill_row(block, rows, row * self.spec.stride + self._kept + new, fill_strip)

    def copy(self, block: Any, image: Any, row: Any, x: Any) -> None:
        """Fill it with the channels of a block of an image of the matrix x."""
        spec, lanes = self.spec, self.tile.vector

        def copied(source: Any, at: Any, length: int, store: Callable[[Any, Any, Any], None]) -> None:
            pixel = (image * spec.height + source) * spec.width + at

            def vector_of(vector: Any, number: Any) -> None:
                def cell(r: Any, c: Any) -> None:
                    store(r, vector * lanes + c, x[pixel + r, number * lanes + c])

                within(number, spec.in_channels, lanes, lambda channels: vectors(length, channels, lanes, cell))

            self._each_vector(block, vector_of)

        self.fill(block, self.tile.rows, row, copied)

    def _each_vector(self, block: Any, body: Callable[[Any, Any], None]) -> None:
        """body(vector, its number among those of all channels) for the vectors of a block."""
        total, most = -(-self.spec.in_channels // self.tile.vector), self.tile.columns // self.tile.vector
        with build.serial(most if total % most == 0 else tirx.min(most, total - block * most)) as vector:
            body(vector, block * most + vector)

    def _fill_row(self, block: Any, rows: int, row: Any, fill_strip: Callable[..., None]) -> None:
        spec, slot = self.spec, tirx.floormod(row, self.rows)

        def inside() -> None:
            def strip(at: Any, length: int) -> None:
                def store(r: Any, c: Any, value: Any) -> None:
                    self.buffer.store(value, self._place(block), slot, spec.padding + at + r, c)

                fill_strip(row - spec.padding, at, length, store)

            strips(spec.width, rows, strip)

        if not spec.padding and self._kept % self._new == 0:  # else it begins above the image
            inside()
            return
        with build.If(tirx.all(row >= spec.padding, row < spec.height + spec.padding)):
            with build.Then():
                inside()
            with build.Else():
                self._clear(self._place(block), slot, spec.padding, spec.width)

    def convolve(self, block: Any, row: Any, taps: Any, bias: Any, store: Any, *, whole: bool = False) -> None:
        """One row of the output for the channels of a block.

        for vector: for strip:
            acc[strip] = bias                                                 # registers
            for ky in k: for kx in k: for s in unrolled(strip):
                acc[s] += ring[(row * stride + ky) % k, s * stride + kx, vector] * taps[ky, kx, vector]
            store(strip, channel, acc)

        taps: those of the block, of the type of the ring. whole: store takes whole vectors, past the last channel too.
        """
        spec, tile, lanes = self.spec, self.tile, self.tile.vector

        def strip(vector: Any, number: Any, at: Any, length: int) -> None:
            sums = Sums(length, lanes, lanes, lambda c: bias[number * lanes + c])
            with build.serial(self.rows) as ky, build.serial(spec.kernel[1]) as kx:
                slot = tirx.floormod(row * spec.stride + ky, self.rows)

                def product(r: Any, c: Any) -> Any:
                    pixel, channel = (at + r) * spec.stride + kx, vector * lanes + c
                    return self.buffer[self._place(block), slot, pixel, channel] * taps[ky, kx, channel]

                sums.add(product)

            def write(channels: int) -> None:
                sums.each(lambda r, c, value: store(at + r, number * lanes + c, value), channels)

            if whole:
                write(lanes)
            else:
                within(number, spec.in_channels, lanes, write)

        def vector_of(vector: Any, number: Any) -> None:
            strips(spec.out_width, tile.rows, partial(strip, vector, number))

        self._each_vector(block, vector_of)

    def _place(self, block: Any) -> Any:
        """Where a block lies: one after the other takes the place of the only one."""
        return block if self.blocks > 1 else 0

    def _clear(self, place: Any, slot: Any, first: int, length: int) -> None:
        def zero(_: Any, c: Any) -> None:
            self.buffer.store(tirx.const(0, self.dtype), place, slot, first + pixel, c)

        with build.serial(length) as pixel:
            vectors(1, self.tile.columns, self.tile.vector, zero)
