"""The reference that kernels are held to: PyTorch in float64, with a bound on what rounding may differ from it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch

from targets.host import detect_host
from targets.registry import get_target
from targets.target import DType, Target
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, FloatArray, Kernel, PackedArray, PoolSpec, Spec, pack_bias

# Roundings of float16 are too many to be added up as if all went one way: so many standard deviations are allowed.
SIGMAS = 4


@dataclass(frozen=True)
class Case:
    """What a kernel is called with, and what it has to write: a matrix [pixels, channels], up to the bound."""

    arguments: list[FloatArray | PackedArray]
    expected: FloatArray
    bound: FloatArray
    dtype: DType

    def empty_output(self) -> PackedArray:
        """Nothing but NaN, so that an element that is not written is wrong."""
        output: PackedArray = np.full(self.expected.shape, np.nan, self.dtype)
        return output

    def accepts(self, got: PackedArray) -> bool:
        """Whether every element is within the bound; NaN is not."""
        return bool(np.all(abs(got - self.expected) <= self.bound))


def pixels(image: FloatArray) -> FloatArray:
    """[batch, channels, height, width] as a matrix [pixels, channels]."""
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)).reshape(-1, image.shape[1])


def conv_case(
    spec: ConvSpec | BlockSpec, kernel: Kernel, random: np.random.Generator, wide: bool = False, products: float = 0.0
) -> Case:
    """A convolution, or several in a row of which the last adds the residual.

    wide: its sums are float32 whatever it computes in, and rounded once. products: the share of itself by which each
    product may be off besides.
    """

    def draw(*shape: int) -> FloatArray:
        return random.standard_normal(shape, dtype=np.float32)

    convolutions = spec.convolutions if isinstance(spec, BlockSpec) else (spec,)

    def rounded(array: FloatArray) -> FloatArray:
        """To what the kernel computes in: rounding that is not its own."""
        return array.astype(kernel.dtype).astype(np.float32)

    first, last, half = convolutions[0], convolutions[-1], kernel.dtype == "float16" and not wide
    eps, single = (float(np.finfo(dtype).eps) for dtype in (kernel.dtype, "float32"))
    x = rounded(draw(first.batch, first.in_channels, first.height, first.width))
    residual = rounded(draw(last.batch, last.out_channels, last.out_height, last.out_width))
    planar = kernel.input_layout == "NCHW"
    arguments: list[FloatArray | PackedArray] = [x if planar else pixels(x).astype(kernel.dtype)]
    y = torch.from_numpy(x).double()
    bound = torch.zeros_like(y)
    assert len(kernel.packs) == len(convolutions)
    for conv, pack in zip(convolutions, kernel.packs):
        # Values between convolutions keep the size of the first ones.
        weights = draw(conv.out_channels, conv.in_channels // conv.groups, *conv.kernel)
        weights /= np.sqrt(weights[0].size, dtype=np.float32)
        bias = rounded(draw(conv.out_channels))
        arguments += [pack(weights), pack_bias(bias, kernel.dtype)]
        w, b = (torch.from_numpy(a).double() for a in (weights.astype(conv.weights), bias))
        r = torch.from_numpy(residual).double() if conv.residual else torch.zeros(())
        step = partial(torch.nn.functional.conv2d, stride=conv.stride, padding=conv.padding, groups=conv.groups)
        # Each product and each of the additions rounds once, by eps/2 of the sum of magnitudes at most, to first order;
        # what the input may be off counts as often as the weights say. A clip brings two numbers no further apart.
        additions = weights[0].size + 2
        if half:
            # By far less where they are independent: each is at most eps/2 of a sum that grows with the root of its
            # terms.
            own = additions * (SIGMAS * eps / 2) ** 2 * (step(y**2, w**2, b**2) + r**2)
            bound = (step(bound**2, w**2) + own).sqrt()
        else:
            bound = step(bound, w.abs()) + additions * single * (step(y.abs(), w.abs(), b.abs()) + r.abs())
            bound = bound + products * step(y.abs(), w.abs())
        y = step(y, w, b) + r
        bound = bound + eps * y.abs() if wide else bound
        y = y if conv.clip is None else y.clip(*conv.clip)
    if last.residual:
        arguments.append(pixels(residual).astype(kernel.dtype))
    return Case(arguments, pixels(y.numpy()), pixels(bound.numpy()), kernel.dtype)


def pool_case(spec: PoolSpec, kernel: Kernel, random: np.random.Generator) -> Case:
    assert not kernel.packs
    size = spec.height * spec.width
    x = random.standard_normal((spec.batch * size, spec.channels), dtype=np.float32).astype(kernel.dtype)
    images = x.reshape(spec.batch, size, spec.channels).astype(np.float64)
    expected, single = images.mean(1), float(np.finfo(np.float32).eps)
    # Added up in float32, and rounded once more where the answer is float16.
    bound = (size + 1) * single * abs(images).mean(1) + float(np.finfo(kernel.dtype).eps) * abs(expected)
    return Case([x], expected, bound, kernel.dtype)


def reference_case(spec: Spec, kernel: Kernel, wide: bool = False, products: float = 0.0) -> Case:
    """Random arguments, the same for the same spec every time. A new kind of spec has its reference here.

    wide, products: see `conv_case`.
    """
    random = np.random.default_rng(zlib.crc32(repr(spec).encode()))
    if isinstance(spec, ConvSpec | BlockSpec):
        return conv_case(spec, kernel, random, wide, products)
    return pool_case(spec, kernel, random)


@pytest.fixture(scope="session")
def make_case() -> Callable[[Spec, Kernel], Case]:
    return reference_case


@pytest.fixture(scope="session")
def x86_targets() -> list[Target]:
    """The x86 targets whose code this machine executes."""
    names = ["x86", "x86-64-v3"] + (["x86-64-v4"] if detect_host().vector_bits == 512 else [])
    return [get_target(name) for name in names]
