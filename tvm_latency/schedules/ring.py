"""Depthwise convolution out of a ring: the rows of a padded image that are in use, and no others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import ConvSpec, FloatArray, PackedArray
from tvm_latency.schedules.loops import Sums, strips, vectors
from tvm_latency.schedules.parts import FLOAT, packed, zero_padded
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

    tile: a strip of output pixels x the channels of a block.
    """

    def __init__(self, spec: ConvSpec, tile: Tile, blocks: int) -> None:
        self.spec, self.tile = spec, tile
        self.rows = spec.kernel[0]
        self.width = spec.width + 2 * spec.padding
        # What an output row finds in the ring, what has to be added, and how many rows earlier to begin.
        self._kept = max(self.rows - spec.stride, 0)
        self._new = self.rows - self._kept
        self._early = -(-self._kept // self._new)
        self.buffer = build.alloc_buffer((blocks, self.rows, self.width, tile.columns), FLOAT)
        with build.serial(blocks) as block, build.serial(self.rows) as slot:
            if spec.in_channels % tile.vector:  # a fill may write the channels there are, and no more
                self._clear(block, slot, 0, self.width)
            elif spec.padding:
                self._clear(block, slot, 0, spec.padding)
                self._clear(block, slot, spec.width + spec.padding, spec.padding)

    def each_row(self, first: Any, last: Any, body: Callable[[Any, Callable[[], Any]], None]) -> None:
        """body(row, full) for the rows of the output, and for some before them for which the ring is only filled.

        What reads the ring stands in `with full():`.
        """
        with build.serial(last - first + self._early) as index:
            row = first + index - self._early
            body(row, (lambda: _when(index >= self._early)) if self._early else nullcontext)

    def fill(self, block: Any, rows: int, row: Any, fill_strip: Callable[..., None]) -> None:
        """Write what an output row needs and the ring does not hold; zeros outside of the image.

        Inside, fill_strip(source row, at, length, store) is called for strips of `rows` pixels; it calls
        store(pixel of the strip, channel of the block, value).
        """
        with build.serial(self._new) as new:
            self._fill_row(block, rows, row * self.spec.stride + self._kept + new, fill_strip)

    def copy(self, block: Any, channels: int, image: Any, row: Any, x: Any, first: Any) -> None:
        """Fill it with so many channels of an image of the matrix x, from `first`."""
        spec = self.spec

        def copied(source: Any, at: Any, length: int, store: Callable[[Any, Any, Any], None]) -> None:
            pixel = (image * spec.height + source) * spec.width + at
            vectors(length, channels, self.tile.vector, lambda r, c: store(r, c, x[pixel + r, first + c]))

        self.fill(block, self.tile.rows, row, copied)

    def _fill_row(self, block: Any, rows: int, row: Any, fill_strip: Callable[..., None]) -> None:
        spec, slot = self.spec, tirx.floormod(row, self.rows)

        def inside() -> None:
            def strip(at: Any, length: int) -> None:
                def store(r: Any, c: Any, value: Any) -> None:
                    build.buffer_store(self.buffer, value, [block, slot, spec.padding + at + r, c])

                fill_strip(row - spec.padding, at, length, store)

            strips(spec.width, rows, strip)

        if not spec.padding and self._kept % self._new == 0:  # else it begins above the image
            inside()
            return
        with build.If(tirx.all(row >= spec.padding, row < spec.height + spec.padding)):
            with build.Then():
                inside()
            with build.Else():
                self._clear(block, slot, spec.padding, spec.width)

    def convolve(self, place: Any, block: Any, channels: int, row: Any, taps: Any, bias: Any, store: Any) -> None:
        """One row of the output for so many channels of a block.

        for vector: for strip:
            acc[strip] = bias                                                 # registers
            for ky in k: for kx in k: for s in unrolled(strip):
                acc[s] += ring[(row * stride + ky) % k, s * stride + kx, vector] * taps[ky, kx, vector]
            store(strip, vector, acc)

        place: of the block in the ring. taps: those of the block, in float32.
        """
        spec, tile, lanes = self.spec, self.tile, self.tile.vector

        def strip(vector: Any, width: int, at: Any, length: int) -> None:
            first = vector * lanes
            sums = Sums(length, width, lanes, lambda c: bias[block * tile.columns + first + c])
            with build.serial(self.rows) as ky, build.serial(spec.kernel[1]) as kx:
                slot = tirx.floormod(row * spec.stride + ky, self.rows)

                def product(r: Any, c: Any) -> Any:
                    pixel = (at + r) * spec.stride + kx
                    return self.buffer[place, slot, pixel, first + c] * taps[ky, kx, first + c]

                sums.add(product)
            sums.each(lambda r, c, value: store(at + r, first + c, value))

        def strips_of(vector: Any, width: int) -> None:
            strips(spec.out_width, tile.rows, lambda at, length: strip(vector, width, at, length))

        strips(channels, lanes, lambda at, n: strips_of(tirx.floordiv(at, lanes), n))

    def _clear(self, block: Any, slot: Any, first: int, length: int) -> None:
        def zero(_: Any, c: Any) -> None:
            build.buffer_store(self.buffer, tirx.const(0, FLOAT), [block, slot, first + pixel, c])

        with build.serial(length) as pixel:
            vectors(1, self.tile.columns, self.tile.vector, zero)
