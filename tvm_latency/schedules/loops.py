"""Pieces of loop nests that are written out rather than scheduled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.s_tir import SBlock, SBlockRealize
from tvm.script.ir_builder import tirx as build

from targets.target import Stored
from tvm_latency.schedules.tiles import store_vector

Cell = Callable[[Any, Any], None]
# Of a row and a term, or of a term and columns: what is multiplied.
Factor = Callable[[Any, Any], Any]
# What the step of a product begins with that adds so many terms from the first on.
Before = Callable[[Any, int], None]


def nothing(_: Any, __: int) -> None:
    """Before a step."""


def strips(extent: int, size: int, body: Callable[[Any, int], None], start: int = 0) -> None:
    """body(start, length) for consecutive strips up to extent; the last may be shorter.

    for strip in (extent - start) / size: body(start + strip * size, size)
    body(what is left)
    """
    full, rest = divmod(extent - start, size)
    if full:
        with build.serial(full) as strip:
            body(start + strip * size, size)
    if rest:
        body(extent - rest, rest)


def blocks(extent: int, size: int, body: Callable[[Any, int], None], loop: Callable[[int], Any] = build.serial) -> None:
    """body(block, its length) for each block; the last may be shorter.

    for block in ceil(extent / size): within(block, ...)
    """
    with loop(-(-extent // size)) as block:
        within(block, extent, size, lambda length: body(block, length))


def within(block: Any, extent: int, size: int, body: Callable[[int], None]) -> None:
    """body(length of a block), of which the last may be shorter.

    if block < the last: body(size) else: body(what is left)
    """
    count = -(-extent // size)
    rest = extent - (count - 1) * size
    if rest == size:
        body(size)
        return
    with build.If(block < count - 1):
        with build.Then():
            body(size)
        with build.Else():
            body(rest)


def vectors(rows: int, columns: int, lanes: int, body: Cell) -> None:
    """body(row, column) for each cell of a tile, in whole vectors and what the last columns need.

    for row, vector in unrolled(rows, columns / lanes): for lane in vectorized(lanes): body(row, vector * lanes + lane)
    """
    with build.unroll(rows) as row:
        for first, length in _vectors_of(columns, lanes):
            with build.vectorized(length) as lane:
                body(row, first + lane)


def _vectors_of(columns: int, lanes: int) -> Iterator[tuple[int, int]]:
    """(first column, columns) of the vectors that make up a row."""
    for first in range(0, columns, lanes):
        rest = min(lanes, columns - first)
        vector = store_vector(rest, lanes)
        yield from ((first + lane, vector) for lane in range(0, rest, vector))


def as_type(value: Any, dtype: Stored) -> Any:
    """A number or a vector of them as dtype."""
    lanes = value.ty.dtype.lanes
    return value.astype(dtype if lanes == 1 else f"{dtype}x{lanes}")


def to_multiply(weights: Any, dtype: Stored, lanes: int, *index: Any) -> Any:
    """weights[index] as dtype: themselves, or a copy of them where they are stored as another.

    A conversion takes the units that multiply and add; a weight is converted once, not each time that it is used.
    """
    shape = [int(size) for size in weights.shape[len(index) :]]
    if weights.dtype == dtype:
        return weights if not index else Part(weights, index)
    copy = build.alloc_buffer(shape, dtype)

    def convert(*outer: Any) -> None:
        if len(outer) < len(shape) - 1:
            with build.serial(shape[len(outer)]) as i:
                convert(*outer, i)
            return

        def cell(_: Any, c: Any) -> None:
            place = (*index, *outer, c)
            build.buffer_store(copy, weights[place].astype(dtype), [*outer, c])

        vectors(1, shape[-1], lanes, cell)

    convert()
    return copy


@dataclass(frozen=True)
class Part:
    """Of a buffer: part[i] is buffer[index, i]."""

    buffer: Any
    index: tuple[Any, ...]

    def __getitem__(self, inner: tuple[Any, ...]) -> Any:
        place = (*self.index, *inner)
        return self.buffer[place]


# Of a product by lanes, so that its loop costs little beside them.
TERMS_IN_A_TURN = 8


class Pixels:
    """A buffer [*outer, pixels, channels], or [*outer, channels / plane, pixels, plane] where `plane` is more than 1.

    In planes of one vector, pixels side by side are loaded and stored two by one instruction, on ARM.
    """

    def __init__(self, outer: Sequence[int], pixels: int, channels: int, plane: int, dtype: Stored) -> None:
        self._plane = plane
        shape = (channels // plane, pixels, plane) if plane > 1 else (pixels, channels)
        self._buffer = build.alloc_buffer([*outer, *shape], dtype)

    def __getitem__(self, index: tuple[Any, ...]) -> Any:
        place = self._place(index)
        return self._buffer[place]

    def store(self, value: Any, *index: Any) -> None:
        """Buffer[outer, pixel, channel] = value; all channels of a vector are in one plane."""
        build.buffer_store(self._buffer, value, list(self._place(index)))

    def _place(self, index: tuple[Any, ...]) -> tuple[Any, ...]:
        *outer, pixel, channel = index
        if self._plane == 1:
            return index
        if isinstance(channel, tirx.Ramp):
            first = channel.base
            lanes = tirx.Ramp(tirx.floormod(first, self._plane), 1, channel.lanes)
            return (*outer, tirx.floordiv(first, self._plane), pixel, lanes)
        return (*outer, tirx.floordiv(channel, self._plane), pixel, tirx.floormod(channel, self._plane))


class Sums:
    """A tile of sums in registers: rows x channels, of which the last vector may be only in part.

    They have the type of what they begin with.

    Each vector of columns is a buffer of its own, small enough for TVM to leave it on the stack. What lies on the heap
    LLVM keeps in memory where it cannot rule out that another pointer, a prefetch's among them, leads there.
    """

    def __init__(self, rows: int, columns: int, lanes: int, bias: Callable[[Any], Any]) -> None:
        """bias(column): what they begin with."""
        self.rows, self.columns, self.lanes = rows, columns, lanes
        dtype = str(bias(0).ty.dtype)
        self._parts = [build.alloc_buffer([rows, lanes], dtype) for _ in range(-(-columns // lanes))]
        self._set(lambda _, c, __: bias(c))

    def add_product(
        self, terms: int, x: Factor, weight: Factor, *, together: int = 1, before: Before = nothing
    ) -> None:
        """Add the sum of x(row, term) * weight(term, column) over all terms, so many `together` out of one load of x.

        for i in terms: acc[r, v] += x[r, i] * weight[i, v]

        or, where a multiply-add takes a lane of a register for a factor:

        for i in terms / together:                                            # some in one turn of the loop
            row[r] = x[r, i * together : (i + 1) * together]                  # registers
            for t in unrolled(together): acc[r, v] += row[r][t] * weight[i * together + t, v]
        """
        steps = terms // together if together > 1 else 0

        def add(step: Any) -> None:
            before(step * together, together)
            self._add_lanes(step * together, together, x, weight)

        in_turn = max(1, TERMS_IN_A_TURN // together)
        if turns := steps // in_turn:
            with build.serial(turns) as turn:
                for step in range(in_turn):
                    add(turn * in_turn + step)
        for step in range(turns * in_turn, steps):
            add(step)
        if terms > steps * together:
            with build.serial(terms - steps * together) as i:
                term = i if not steps else steps * together + i
                before(term, 1)
                self.add(lambda r, c: x(r, term) * weight(term, c))

    def _add_lanes(self, first: Any, together: int, x: Factor, weight: Factor) -> None:
        lane = tirx.Ramp(0, 1, self.lanes)
        for term in range(together):
            with build.unroll(self.rows) as row:
                factor = tirx.Shuffle([x(row, tirx.Ramp(first, 1, together))], [term] * self.lanes)
                for number, part in enumerate(self._parts):
                    columns = tirx.Ramp(number * self.lanes, 1, self.lanes)
                    build.buffer_store(part, part[row, lane] + factor * weight(first + term, columns), [row, lane])

    def add(self, product: Callable[[Any, Any], Any]) -> None:
        """Add product(row, column) to each, those past the last channel included."""
        self._set(lambda r, c, value: value + product(r, c))

    def each(self, body: Callable[[Any, Any, Any], None], columns: int | None = None) -> None:
        """body(row, column, sum) for each up to `columns`, in whole vectors and what the last column needs."""
        with build.unroll(self.rows) as row:
            for first, length in _vectors_of(columns or self.columns, self.lanes):
                part, lane_0 = self._parts[first // self.lanes], first % self.lanes
                with build.vectorized(length) as lane:
                    body(row, first + lane, part[row, lane_0 + lane])

    def _set(self, value: Callable[[Any, Any, Any], Any]) -> None:
        with build.unroll(self.rows) as row:
            for number, part in enumerate(self._parts):
                with build.vectorized(self.lanes) as lane:
                    build.buffer_store(part, value(row, number * self.lanes + lane, part[row, lane]), [row, lane])


def whole_block(func: Any) -> Any:
    """The function as Relax's passes want to see it: one block without axes around everything."""
    block = SBlock([], [], [], "root", func.body)
    return func.with_body(SBlockRealize([], True, block))
