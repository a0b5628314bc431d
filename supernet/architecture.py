"""Architecture: one concrete network, as text, as JSON and as the list of operators it runs. No torch."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tvm_latency.opspec import OpSpec

FORMAT = "netlathe-architecture/1"

_TEXT = re.compile(r"r(\d+) c(\d+)s(\d+) (.*) h(\d+) n(\d+)")
_BLOCK = re.compile(r"(\d+)(skip|k(\d+)e(\d+)(?:s(\d+))?)")


class ArchitectureError(ValueError):
    """The text, the file or the name does not describe a network."""


@dataclass(frozen=True)
class Choice:
    """What stands in one block: an MBConv of this kernel size and expansion, or nothing (`SKIP`)."""

    kernel: int
    expand: int

    def __str__(self) -> str:
        """`k5e6`, or `skip`."""
        return "skip" if self == SKIP else f"k{self.kernel}e{self.expand}"


SKIP = Choice(0, 0)


@dataclass(frozen=True)
class Block:
    """One place in the network and the choice that stands there."""

    out_channels: int
    choice: Choice
    stride: int = 1

    def __str__(self) -> str:
        """`32k5e3s2`: out channels, kernel, expand, stride where it is not 1."""
        return f"{self.out_channels}{self.choice}" + (f"s{self.stride}" if self.stride != 1 else "")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A network of MBConv blocks: stem, blocks, 1x1 head, global mean pool, linear classifier.

    Its text form is its identity: two architectures with equal text are the same network.
    """

    resolution: int
    stem_channels: int
    stem_stride: int
    blocks: tuple[Block, ...]
    head_channels: int
    classes: int
    name: str = ""

    @property
    def text(self) -> str:
        """`r224 c32s2 16k3e1 32k5e3s2 ... h1280 n1000`."""
        blocks = " ".join(map(str, self.blocks))
        stem = f"c{self.stem_channels}s{self.stem_stride}"
        return f"r{self.resolution} {stem} {blocks} h{self.head_channels} n{self.classes}"

    @classmethod
    def from_text(cls, text: str, name: str = "") -> Architecture:
        """The inverse of `text`.

        Raises:
            ArchitectureError: the text is not of that form, or no operator has the sizes it names.
        """
        whole = _TEXT.fullmatch(text.strip())
        blocks = [_BLOCK.fullmatch(word) for word in whole[4].split()] if whole else []
        if whole is None or any(block is None for block in blocks):
            raise ArchitectureError(
                f"{text!r} is not an architecture. The form is `r224 c32s2 16k3e1 32k5e3s2 32skip h1280 n1000`."
            )
        try:
            architecture = cls(
                resolution=int(whole[1]),
                stem_channels=int(whole[2]),
                stem_stride=int(whole[3]),
                blocks=tuple(
                    Block(int(b[1]), SKIP if b[2] == "skip" else Choice(int(b[3]), int(b[4])), int(b[5] or 1))
                    for b in blocks
                    if b is not None
                ),
                head_channels=int(whole[5]),
                classes=int(whole[6]),
                name=name,
            )
            architecture.op_specs()
        except ValueError as error:
            raise ArchitectureError(f"{text!r} is no network that can run. {error}") from error
        return architecture

    def to_json(self) -> dict[str, Any]:
        """The content of an architecture.json."""
        return {
            "format": FORMAT,
            "name": self.name,
            "architecture": self.text,
            "macs": self.macs,
            "params": self.params,
        }

    @classmethod
    def from_file(cls, path: Path) -> Architecture:
        """Read an architecture.json.

        Raises:
            ArchitectureError: the file is not JSON, or not an architecture.
        """
        try:
            data = json.loads(path.read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ArchitectureError(
                f"{path} is not JSON ({error}). Expected a file that `netlathe search` wrote."
            ) from error
        if not isinstance(data, dict) or data.get("format") != FORMAT or not isinstance(data.get("architecture"), str):
            raise ArchitectureError(f'{path} is not an architecture file: "format" must be "{FORMAT}".')
        return cls.from_text(data["architecture"], name=str(data.get("name", "")))

    def with_classes(self, classes: int) -> Architecture:
        """The same network for another number of classes."""
        return replace(self, classes=classes)

    @property
    def total_stride(self) -> int:
        """The product of all strides: a side of the last image has a pixel for so many of the first."""
        return self.stem_stride * math.prod(block.stride for block in self.blocks)

    def for_images(self, resolution: int, total_stride: int) -> Architecture:
        """The same network for images of `resolution` pixels a side, with a total stride of `total_stride` at most.

        Its first strides become 1 until it has, as is usual for MobileNetV2 on small images.
        """
        strides = [self.stem_stride, *(block.stride for block in self.blocks)]
        for place in range(len(strides)):
            if math.prod(strides) <= total_stride:
                break
            strides[place] = 1
        blocks = tuple(replace(block, stride=stride) for block, stride in zip(self.blocks, strides[1:]))
        return replace(self, resolution=resolution, stem_stride=strides[0], blocks=blocks)

    def op_specs(self, batch: int = 1) -> tuple[OpSpec, ...]:
        """The operators in the order they run; skipped blocks run nothing."""
        size, channels = self.resolution, self.stem_channels
        ops = [
            OpSpec(
                kind="conv",
                height=size,
                width=size,
                in_channels=3,
                out_channels=channels,
                kernel=3,
                stride=self.stem_stride,
                batch=batch,
            )
        ]
        size = ops[0].out_height
        for block in self.blocks:
            if block.choice == SKIP:
                continue
            op = mbconv(size, channels, block, batch)
            ops.append(op)
            size, channels = op.out_height, block.out_channels
        head = self.head_channels
        ops += [
            OpSpec(kind="conv", height=size, width=size, in_channels=channels, out_channels=head, batch=batch),
            OpSpec(kind="pool", height=size, width=size, in_channels=head, out_channels=head, batch=batch),
            OpSpec(kind="linear", height=1, width=1, in_channels=head, out_channels=self.classes, batch=batch),
        ]
        return tuple(ops)

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(op.macs for op in self.op_specs())

    @property
    def params(self) -> int:
        """Trainable parameters, batch norm included."""
        return sum(op.params for op in self.op_specs())


def mbconv(size: int, in_channels: int, block: Block, batch: int = 1) -> OpSpec:
    """The operator of a block that is not skipped, for a square input of `size` pixels."""
    return OpSpec(
        kind="mbconv",
        height=size,
        width=size,
        in_channels=in_channels,
        out_channels=block.out_channels,
        kernel=block.choice.kernel,
        stride=block.stride,
        expand=block.choice.expand,
        batch=batch,
    )


def make_divisible(channels: float, divisor: int = 8) -> int:
    """Round a channel count to a multiple of 8, never down by more than 10 % (MobileNetV2's rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
