"""What a kernel kind is asked for and what it answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from targets.target import DTYPE_BYTES, Stored
from tvm_latency.opspec import WeightType

FloatArray = npt.NDArray[np.float32]
PackedArray = npt.NDArray[np.float32] | npt.NDArray[np.float16]


@dataclass(frozen=True, kw_only=True)
class ConvSpec:
    """A convolution with what follows it: bias, an optional clip, an optional residual added before the clip.

    A matrix product with constant weights is a 1x1 convolution over `batch` images of one pixel. `weights` is the type
    that they have in memory; the bias has the one that the target computes in.
    """

    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: int = 0
    groups: int = 1
    clip: tuple[float, float] | None = None
    residual: bool = False
    weights: WeightType = "float32"

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return (self.height + 2 * self.padding - self.kernel[0]) // self.stride + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.width + 2 * self.padding - self.kernel[1]) // self.stride + 1

    @property
    def out_pixels(self) -> int:
        """Rows of the output as a matrix [pixels, channels]."""
        return self.batch * self.out_height * self.out_width

    @property
    def pointwise(self) -> bool:
        """Whether it is a matrix product over pixels."""
        return self.kernel == (1, 1) and self.groups == 1 and self.stride == 1 and self.padding == 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        taps = self.kernel[0] * self.kernel[1] * self.in_channels // self.groups
        return self.out_pixels * self.out_channels * taps

    @property
    def suffix(self) -> str:
        """Shapes, epilogue and weights that are not float32, for the kernel's name."""
        k = "x".join(map(str, self.kernel))
        bounds = "" if self.clip is None else "_clip" + "_".join(map(repr, self.clip))
        clip = bounds.replace("-", "m").replace(".", "p").replace("+", "")
        return (
            f"n{self.batch}_h{self.height}w{self.width}_i{self.in_channels}_o{self.out_channels}_k{k}_s{self.stride}"
            f"_p{self.padding}_g{self.groups}{clip}{'_res' if self.residual else ''}"
            f"{'' if self.weights == 'float32' else '_w' + self.weights}"
        )


@dataclass(frozen=True, kw_only=True)
class PoolSpec:
    """Mean over all pixels of each image."""

    batch: int
    height: int
    width: int
    channels: int
    out_height: ClassVar[int] = 1
    out_width: ClassVar[int] = 1

    @property
    def out_channels(self) -> int:
        """Those of the input."""
        return self.channels

    @property
    def out_pixels(self) -> int:
        """One for each image."""
        return self.batch

    @property
    def suffix(self) -> str:
        """Shapes, for the kernel's name."""
        return f"n{self.batch}_h{self.height}w{self.width}_c{self.channels}"


@dataclass(frozen=True, kw_only=True)
class BlockSpec:
    """An inverted residual: [pointwise expand], depthwise, pointwise project with an optional residual."""

    expand: ConvSpec | None
    depthwise: ConvSpec
    project: ConvSpec

    @property
    def convolutions(self) -> tuple[ConvSpec, ...]:
        """In order."""
        return (*([self.expand] if self.expand else []), self.depthwise, self.project)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(conv.macs for conv in self.convolutions)

    @property
    def suffix(self) -> str:
        """Those of the convolutions, for the kernel's name."""
        return "__".join(conv.suffix for conv in self.convolutions)


Operator = ConvSpec | PoolSpec
Spec = Operator | BlockSpec
Pack = Callable[[FloatArray], PackedArray]


def bias_size(channels: int, dtype: Stored) -> int:
    """Biases are filled up with zeros to whole vectors of 512 bits, so that any vector of sums can begin with them."""
    lanes = 64 // DTYPE_BYTES[dtype]
    return -(-channels // lanes) * lanes


def pack_bias(bias: FloatArray, dtype: Stored) -> PackedArray:
    """A convolution's bias as its kernel reads it."""
    return packed(np.pad(bias, (0, bias_size(bias.size, dtype) - bias.size)), dtype)


def packed(values: FloatArray, stored: WeightType) -> PackedArray:
    """Contiguous values in the type they are stored as, each rounded to the nearest; beyond its range, infinite."""
    with np.errstate(over="ignore"):
        result: PackedArray = np.ascontiguousarray(values, dtype=stored)
    return result


def with_weights(spec: Operator, weights: WeightType) -> Operator:
    """The same operator with its weights stored so; itself where it has none."""
    return replace(spec, weights=weights) if isinstance(spec, ConvSpec) else spec


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A function, scheduled when it is first asked for, and how its weights are laid out.

    func: parameters (input, [weights and `pack_bias` of each convolution], [residual], output); tensors are
        [pixels, channels] of `dtype`, unless `input_layout` says that the function reads the image as it stands,
        [batch, channels, height, width] in float32.
    packs: for each convolution, from OIHW weights (after folding) to the function's layout and type; done once, at
        compile time. What float16 cannot hold comes out infinite.
    """

    name: str
    make: Callable[[], Any]
    packs: tuple[Pack, ...] = ()
    dtype: Stored = "float32"
    input_layout: Literal["pixels", "NCHW"] = "pixels"

    @cached_property
    def func(self) -> Any:
        """What `make` makes, once: a network's inner kernels may never be asked for theirs."""
        return self.make()
