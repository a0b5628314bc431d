"""How the threads of a target share a kernel's work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from tvm_latency.schedules.kernel import ConvSpec

# Waking TVM's thread pool takes a few microseconds. A depthwise convolution needs as long for so few
# multiply-accumulates; and what one thread alone computes, the other must fetch from its cache afterwards.
PARALLEL_MACS = 200_000

Axis = Literal["pixels", "channels"]


@dataclass(frozen=True)
class Split:
    """So many threads, each with its part of one axis."""

    threads: int
    axis: Axis

    def parts(self, axis: Axis) -> int:
        """How many threads share an axis."""
        return self.threads if axis == self.axis else 1

    def share(self, extent: int, axis: Axis) -> int:
        """How much of an axis the busiest thread has."""
        return -(-extent // self.parts(axis))

    def loop(self, axis: Axis) -> Any:
        """The loop over an axis: parallel over the one that is split, where there are threads to split it for."""
        return build.parallel if self.parts(axis) > 1 else build.serial

    def bands(self, pixels: int, body: Callable[[Any, int], None]) -> None:
        """body(start, length) for the pixels of each thread.

        Bands are equally long; for that the last may begin early, and two threads write the same to what they share.
        """
        band = self.share(pixels, "pixels")
        if band == pixels:
            body(0, pixels)
            return
        with build.parallel(self.threads) as thread:
            start = thread * band
            body(start if pixels % self.threads == 0 else tirx.min(start, pixels - band), band)


def row_bands(batch: int, height: int, split: Split, body: Callable[[Any, Any, Any], None]) -> None:
    """body(image, first, last) for bands of rows: one for each thread where pixels are split, else all of an image."""
    bands = min(height, split.parts("pixels"))
    if batch * bands == 1:
        body(0, 0, height)
        return
    with split.loop("pixels")(batch * bands) as index:
        image, band = tirx.floordiv(index, bands), tirx.floormod(index, bands)
        if height % bands == 0:  # shorter to compile
            rows = height // bands
            body(image, band * rows, band * rows + rows)
        else:
            body(image, *(tirx.floordiv(b * height, bands) for b in (band, band + 1)))


def wakes(macs: int, threads: int) -> int:
    """How many threads share so much work."""
    return threads if macs >= PARALLEL_MACS else 1


def split_of(spec: ConvSpec, threads: int) -> Split:
    """How to share a convolution, such that threads find what they read in their own caches.

    A thread with a band of rows reads what it wrote itself, from one kernel to the next, and all weights, which are
    fetched ahead; one with some channels reads its own weights alone, and pixels out of the others' caches. Measured
    with two threads, bands were faster as far as there are rows for all and no band shares more of them with the next
    than it has itself. A linear layer has no rows, whatever the batch.
    """
    shared = spec.kernel[0] - spec.stride
    rows = spec.out_height > 1 and spec.batch * spec.out_height >= threads
    enough = rows and spec.out_height * spec.stride >= shared * threads
    return Split(wakes(spec.macs, threads), "pixels" if enough else "channels")
