"""OpSpec: one measurable unit of a network. Standard library only, so that every package may use it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

OpKind = Literal["conv", "depthwise", "mbconv", "pool", "linear"]

WeightType = Literal["float32", "float16"]
"""How weights are stored; what they are multiplied as is the target's affair."""

WEIGHT_BYTES = {"float32": 4, "float16": 2}
# Of an activation or a bias where a target computes in float32. Where it computes in float16 they are half of that:
# `features` and limits of memory see to it, and the few bytes of biases count as here.
FLOAT_BYTES = 4
# A stem reads its image as it comes: with fewer input channels than this, turning it into [pixels, channels] first
# costs more than reading it once in planes.
PLANAR_CHANNELS = 8


@dataclass(frozen=True, kw_only=True)
class OpSpec:
    """An MBConv block or a fixed layer, with everything its latency depends on.

    kind:
      conv       dense k x k convolution, bias, ReLU6 (the stem; the 1x1 head)
      depthwise  k x k convolution of each channel by itself, bias, ReLU6; only networks from outside have it alone
      mbconv     [1x1 expand, ReLU6 if expand > 1], depthwise k x k, ReLU6, 1x1 project, residual where shapes allow
      pool       global mean over height and width
      linear     matrix product with bias; height = width = 1

    Sizes are those of the input; padding is kernel // 2, so the output is ceil(size / stride). `hidden` is how many
    channels are between expand and project where they are no multiple of those that come in; `expand` is 1 then.
    `dtype` names how the weights are stored; bytes of what is read and written are those of float32.
    """

    kind: OpKind
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: int = 1
    stride: int = 1
    expand: int = 1
    hidden: int = 0
    batch: int = 1
    dtype: WeightType = "float32"

    def __post_init__(self) -> None:
        """Refuse shapes that no operator has.

        Raises:
            ValueError: a size below 1, an even kernel, a dtype without a byte size, channels that cannot be.
        """
        sizes = (self.height, self.width, self.in_channels, self.out_channels, self.stride, self.expand, self.batch)
        if min(sizes) < 1:
            raise ValueError(f"{self.kind}: every size must be at least 1, got {sizes}.")
        if self.kernel % 2 == 0 or self.kernel < 1:
            raise ValueError(f"{self.kind}: the kernel size must be odd and positive, got {self.kernel}.")
        if self.kind == "depthwise" and self.in_channels != self.out_channels:
            raise ValueError(f"depthwise: {self.in_channels} channels cannot become {self.out_channels}.")
        if self.hidden < 0 or (self.hidden and (self.kind != "mbconv" or self.expand != 1)):
            raise ValueError(f"{self.kind}: hidden channels belong to an mbconv without another expansion.")
        if self.dtype not in WEIGHT_BYTES:
            raise ValueError(f"{self.kind}: dtype must be one of {', '.join(WEIGHT_BYTES)}, got {self.dtype!r}.")

    @property
    def key(self) -> str:
        """The one printable name: `mbconv-n1-h56w56-i24-o32-k5-s2-e6-float32`."""
        return (
            f"{self.kind}-n{self.batch}-h{self.height}w{self.width}-i{self.in_channels}-o{self.out_channels}"
            f"-k{self.kernel}-s{self.stride}-{f'h{self.hidden}' if self.hidden else f'e{self.expand}'}-{self.dtype}"
        )

    @property
    def hidden_channels(self) -> int:
        """Channels between expand and project."""
        return self.hidden or self.in_channels * self.expand

    @property
    def expands(self) -> bool:
        """Whether a 1x1 convolution comes before the depthwise one."""
        return self.kind == "mbconv" and (self.expand > 1 or self.hidden > 0)

    @property
    def out_height(self) -> int:
        """Height of the output in pixels."""
        return 1 if self.kind == "pool" else -(-self.height // self.stride)

    @property
    def out_width(self) -> int:
        """Width of the output in pixels."""
        return 1 if self.kind == "pool" else -(-self.width // self.stride)

    @property
    def residual(self) -> bool:
        """Whether the block adds its input to its output."""
        return self.kind == "mbconv" and self.stride == 1 and self.in_channels == self.out_channels

    @property
    def macs(self) -> int:
        """Multiply-accumulates, as papers count them: convolutions and matrix products only."""
        pixels, out_pixels = self.height * self.width, self.out_height * self.out_width
        if self.kind == "pool":
            return 0
        if self.kind == "depthwise":
            return self.batch * out_pixels * self.kernel**2 * self.in_channels
        if self.kind != "mbconv":
            return self.batch * out_pixels * self.kernel**2 * self.in_channels * self.out_channels
        expand = pixels * self.in_channels * self.hidden_channels if self.expands else 0
        depthwise = out_pixels * self.kernel**2 * self.hidden_channels
        project = out_pixels * self.hidden_channels * self.out_channels
        return self.batch * (expand + depthwise + project)

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each multiply-accumulate, one for each pooled value."""
        if self.kind == "pool":
            return self.batch * self.height * self.width * self.in_channels
        return 2 * self.macs

    @property
    def params(self) -> int:
        """Trainable parameters before folding: weights, batch-norm scale and shift, the bias of a linear layer."""
        if self.kind == "pool":
            return 0
        if self.kind == "linear":
            return self.in_channels * self.out_channels + self.out_channels
        if self.kind == "depthwise":
            return (self.kernel**2 + 2) * self.in_channels
        if self.kind == "conv":
            return self.kernel**2 * self.in_channels * self.out_channels + 2 * self.out_channels
        hidden = self.hidden_channels
        expand = self.in_channels * hidden + 2 * hidden if self.expands else 0
        return expand + self.kernel**2 * hidden + 2 * hidden + hidden * self.out_channels + 2 * self.out_channels

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases after batch norm is folded in; a bias is float32."""
        if self.kind == "pool":
            return 0
        hidden_layers = (2 if self.expands else 1) if self.kind == "mbconv" else 0
        biases = self.out_channels + self.hidden_channels * hidden_layers
        # A batch norm has two parameters for each bias that is left of it; the bias of a linear layer is its own.
        weights = self.params - (biases if self.kind == "linear" else 2 * biases)
        return weights * WEIGHT_BYTES[self.dtype] + biases * FLOAT_BYTES

    @property
    def activation_bytes(self) -> int:
        """Bytes read and written between operators: input, expanded tensors, output."""
        pixels, out_pixels = self.height * self.width, self.out_height * self.out_width
        elements = pixels * self.in_channels + out_pixels * self.out_channels
        if self.kind == "mbconv":
            expanded = pixels * self.hidden_channels if self.expands else 0
            elements += expanded + out_pixels * self.hidden_channels
        return self.batch * elements * FLOAT_BYTES

    @property
    def peak_bytes(self) -> int:
        """Bytes of activations alive at once at most, where expand, depthwise and project run one after the other.

        A step needs what it reads and what it writes; with a residual the input stays until project has added it to its
        output. The kernels that fuse these steps hold only strips of the expanded tensors and need less.
        """
        pixels, out_pixels = self.height * self.width, self.out_height * self.out_width
        image, output = pixels * self.in_channels, out_pixels * self.out_channels
        if self.kind != "mbconv":
            return self.batch * (image + output) * FLOAT_BYTES
        expanded, filtered = pixels * self.hidden_channels, out_pixels * self.hidden_channels
        kept = image if self.residual else 0
        project = kept + filtered + output
        # Without expansion the depthwise step reads the input itself.
        depthwise = kept + expanded + filtered if self.expands else image + filtered
        expand = image + expanded if self.expands else 0
        return self.batch * max(expand, depthwise, project) * FLOAT_BYTES


def stored_as(ops: Iterable[OpSpec], weights: WeightType, batch: int | None = None) -> tuple[OpSpec, ...]:
    """The same operators with their weights stored so, and for so many images at once if that is given."""
    return tuple(replace(op, dtype=weights, batch=batch or op.batch) for op in ops)


def network_weight_bytes(ops: Iterable[OpSpec]) -> int:
    """The bytes of all weights of a network."""
    return sum(op.weight_bytes for op in ops)
