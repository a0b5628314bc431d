"""The reference that kernels are held to: PyTorch in float64, with a bound on what float32 may differ from it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from tvm_latency.schedules.kernel import ConvSpec, FloatArray, Kernel, PoolSpec, Spec

EPS = np.finfo(np.float32).eps


@dataclass(frozen=True)
class Case:
    """What a kernel is called with, and what it has to write: a matrix [pixels, channels], up to the bound."""

    arguments: list[FloatArray]
    expected: FloatArray
    bound: FloatArray

    def empty_output(self) -> FloatArray:
        """Nothing but NaN, so that an element that is not written is wrong."""
        return np.full(self.expected.shape, np.nan, np.float32)

    def accepts(self, got: FloatArray) -> bool:
        """Whether every element is within the bound; NaN is not."""
        return bool(np.all(abs(got - self.expected) <= self.bound))


def pixels(image: FloatArray) -> FloatArray:
    """[batch, channels, height, width] as a matrix [pixels, channels]."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)).reshape(-1, image.shape[1])


def conv_case(spec: ConvSpec, kernel: Kernel, random: np.random.Generator) -> Case:
    def draw(*shape: int) -> FloatArray:
        return random.standard_normal(shape, dtype=np.float32)

    x = draw(spec.batch, spec.in_channels, spec.height, spec.width)
    weights = draw(spec.out_channels, spec.in_channels // spec.groups, *spec.kernel)
    bias, residual = draw(spec.out_channels), draw(spec.batch, spec.out_channels, spec.out_height, spec.out_width)

    def convolve(*operands: FloatArray) -> FloatArray:
        a, w, b, r = (torch.from_numpy(o).double() for o in operands)
        y = torch.nn.functional.conv2d(a, w, b, stride=spec.stride, padding=spec.padding, groups=spec.groups)
        return pixels((y + r if spec.residual else y).numpy())

    expected = convolve(x, weights, bias, residual)
    # Each product and each of the additions rounds once, by eps/2 of the sum of magnitudes at most, to first order.
    # A clip brings two numbers no further apart.
    additions = weights[0].size + 2
    bound = additions * EPS * convolve(*map(abs, (x, weights, bias, residual)))
    assert kernel.pack is not None
    arguments = [x if kernel.input_layout == "NCHW" else pixels(x), kernel.pack(weights), bias]
    arguments += [pixels(residual)] if spec.residual else []
    return Case(arguments, expected if spec.clip is None else expected.clip(*spec.clip), bound)


def pool_case(spec: PoolSpec, kernel: Kernel, random: np.random.Generator) -> Case:
    assert kernel.pack is None
    size = spec.height * spec.width
    x = random.standard_normal((spec.batch * size, spec.channels), dtype=np.float32)
    images = x.reshape(spec.batch, size, spec.channels).astype(np.float64)
    return Case([x], images.mean(1), (size + 1) * EPS * abs(images).mean(1))


def reference_case(spec: Spec, kernel: Kernel) -> Case:
    """Random arguments, the same for the same spec every time. A new kind of spec has its reference here."""
    random = np.random.default_rng(zlib.crc32(repr(spec).encode()))
    if isinstance(spec, ConvSpec):
        return conv_case(spec, kernel, random)
    return pool_case(spec, kernel, random)


@pytest.fixture(scope="session")
def make_case() -> Callable[[Spec, Kernel], Case]:
    return reference_case
