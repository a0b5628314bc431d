"""Pieces of kernels for GPUs: the grid of threads, whole vectors in registers, guards, what sums become.

Memory is read and written in whole vectors, and numbers are computed with one by one: a thread has no vector units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tvm import tirx
from tvm.backend.cuda.op import cuda_cta_sync
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from targets.target import DTYPE_BYTES, Stored
from tvm_latency.schedules.gpu.tiles import VECTOR_BYTES
from tvm_latency.schedules.kernel import ConvSpec
from tvm_latency.schedules.loops import as_type, whole_block
from tvm_latency.schedules.parts import clipped

# Sums have this type, whatever they are of.
SUM: Stored = "float32"


def kernel_function(body: Callable[[], None]) -> Any:
    """A function whose loops are a grid; the body declares its parameters, too."""
    with IRBuilder() as builder, build.prim_func():
        build.func_name("main")
        # TVM's passes for kernels that are written out, barriers included: see `tvm_latency.device_code`.
        build.func_attr({"netlathe.written_out": True})
        body()
    return whole_block(builder.get())


@contextmanager
def grid(blocks: int, threads: int) -> Iterator[tuple[Any, Any]]:
    """Block and thread: so many of each run the body at once."""
    with build.launch_thread("blockIdx.x", blocks) as block, build.launch_thread("threadIdx.x", threads) as thread:
        yield block, thread


def digits(number: Any, *sizes: int) -> tuple[Any, ...]:
    """A number in mixed radix, the last digit the fastest; the first has no bound.

    digits(n, 3, 2) = (n / 6, n / 2 % 3, n % 2)
    """
    found: list[Any] = []
    for size in reversed(sizes):
        found.append(tirx.floormod(number, size) if size > 1 else 0)
        number = tirx.floordiv(number, size) if size > 1 else number
    return (number, *reversed(found))


def where(*conditions: Any) -> AbstractContextManager[None]:
    """The body runs where all of them hold; None always does."""
    found = [condition for condition in conditions if condition is not None]
    return _guarded(tirx.all(*found)) if found else nullcontext()


@contextmanager
def _guarded(condition: Any) -> Iterator[None]:
    with build.If(condition), build.Then():
        yield


def registers(*shape: int, dtype: Stored = SUM) -> Any:
    """A buffer of one thread."""
    return build.alloc_buffer(list(shape), dtype, scope="local")


def shared(*shape: int) -> Any:
    """A buffer that all threads of a block have together, of sums."""
    return build.alloc_buffer(list(shape), SUM, scope="shared")


def wait_for_block() -> None:
    """Until all threads of the block are here."""
    build.evaluate(cuda_cta_sync())


def zeros(*shape: int) -> Any:
    """Sums in registers that begin with 0."""
    buffer = registers(*shape)

    def clear(*index: Any) -> None:
        if len(index) == len(shape):
            build.buffer_store(buffer, tirx.const(0.0, SUM), list(index))
            return
        with build.unroll(shape[len(index)]) as i:
            clear(*index, i)

    clear()
    return buffer


def copy(into: Any, into_index: Sequence[Any], source: Any, index: Sequence[Any], lanes: int) -> None:
    """into[into_index + lane] = source[index + lane], of the last axis and one type: a vector, or what it takes."""
    *outer, first = into_index
    value = part(source, *index)
    most = min(lanes, VECTOR_BYTES // DTYPE_BYTES[dtype_of(source)])
    for begin in range(0, lanes, most):
        with build.vectorized(most) as lane:
            build.buffer_store(into, value(begin + lane), [*outer, first + begin + lane])


def loaded(source: Any, index: Sequence[Any], lanes: int) -> Any:
    """A vector of a buffer in registers, of the buffer's type."""
    vector = registers(lanes, dtype=dtype_of(source))
    copy(vector, [0], source, index, lanes)
    return vector


def part(buffer: Any, *index: Any) -> Callable[[Any], Any]:
    """lane -> buffer[index + lane], of the last axis."""
    *outer, first = index

    def value(lane: Any) -> Any:
        place = (*outer, first + lane)
        return buffer[place]

    return value


def dtype_of(buffer: Any) -> Stored:
    """What its numbers are."""
    return "float16" if str(buffer.dtype) == "float16" else "float32"


def lanes_of(channels: int, number_bytes: int) -> int:
    """Channels that are loaded at once: as many as 16 bytes hold, of what divides them."""
    lanes = VECTOR_BYTES // number_bytes
    while channels % lanes:
        lanes //= 2
    return lanes


class Output:
    """Where a convolution's sums go: y[pixel, channel] = clip(sum + bias + residual)."""

    def __init__(self, spec: ConvSpec, y: Any, bias: Any, residual: Any) -> None:
        self.spec, self.y, self.bias, self.residual = spec, y, bias, residual

    def store(self, pixel: Any, channel: Any, lanes: int, value: Callable[[Any], Any]) -> None:
        """As many channels as stand beside each other; those past the last are left out."""
        vector = lanes if self.spec.out_channels % lanes == 0 else 1
        for first in range(0, lanes, vector):
            with where(None if vector == lanes else channel + first < self.spec.out_channels):
                self._store(pixel, channel, first, vector, value)

    def _store(self, pixel: Any, channel: Any, first: int, lanes: int, value: Callable[[Any], Any]) -> None:
        dtype, channel = dtype_of(self.y), channel + first
        bias, result = loaded(self.bias, [channel], lanes), registers(lanes, dtype=dtype)
        residual = None if self.residual is None else loaded(self.residual, [pixel, channel], lanes)
        with build.unroll(lanes) as c:
            total = value(first + c) + as_type(bias[c], SUM)
            if residual is not None:
                total = total + as_type(residual[c], SUM)
            build.buffer_store(result, as_type(clipped(total, self.spec.clip), dtype), [c])
        copy(self.y, [pixel, channel], result, [0], lanes)
