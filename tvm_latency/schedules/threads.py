"""How the threads of a target share a kernel's work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx
from tvm.script.ir_builder import tirx as build

from tvm_latency.schedules.kernel import ConvSpec

# Waking TVM's thread pool takes a few microseconds, as long as one core needs for this many multiply-accumulates.
PARALLEL_MACS = 1_000_000

Axis = Literal["pixels", "channels"]


@dataclass(frozen=True)
class Split:
    """So many threads, each with its part of one axis."""

    threads: int
    axis: Axis

    def share(self, extent: int, axis: Axis) -> int:
        """How much of an axis the busiest thread has."""
        return -(-extent // self.threads) if axis == self.axis else extent

    def loop(self, axis: Axis) -> Any:
        """The loop over an axis: parallel over the one that is split, where there are threads to split it for."""
        return build.parallel if axis == self.axis and self.threads > 1 else build.serial

    def bands(self, pixels: int, body: Callable[[Any, int], None]) -> None:
        """body(start, length) for the pixels of each thread.

        Bands are equally long; for that the last may begin early, and two threads write the same to what they share.
        """
        if self.threads == 1 or self.axis != "pixels":
            body(0, pixels)
            return
        band = self.share(pixels, "pixels")
        with build.parallel(self.threads) as thread:
            start = thread * band
            body(start if pixels % self.threads == 0 else tirx.min(start, pixels - band), band)


def row_bands(batch: int, height: int, bands: int, body: Callable[[Any, Any, Any], None]) -> None:
    """body(image, first, last) for bands of rows, each on a thread of its own."""
    if batch * bands == 1:
        body(0, 0, height)
        return
    loop = build.parallel if bands > 1 else build.serial
    with loop(batch * bands) as index:
        image, band = tirx.floordiv(index, bands), tirx.floormod(index, bands)
        first, last = (tirx.floordiv(b * height, bands) for b in (band, band + 1))
        body(image, first, last)


def split_of(spec: ConvSpec, threads: int) -> Split:
    """How to share a convolution, such that threads find what they read in their own caches.

    Threads with bands of pixels read what they have written themselves, from one kernel to the next, and all weights.
    Threads with channels read each its own weights, and pixels that others have written. So bands suit the large images
    at the beginning of a network, channels the small ones at its end. In an inverted residual the numbers are the same
    for images of about twice as many pixels as it has channels outside, and all its kernels are split alike.
    """
    outside = spec.in_channels // 6 if spec.groups > 1 else min(spec.in_channels, spec.out_channels)
    wakes = threads > 1 and spec.macs >= PARALLEL_MACS
    bands = spec.out_pixels >= max(2 * outside, threads)
    return Split(threads if wakes else 1, "pixels" if bands else "channels")
