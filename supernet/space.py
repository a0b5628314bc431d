"""SearchSpace: the networks a search may choose from, and its presets. No torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from random import Random

from supernet.architecture import SKIP, Architecture, Block, Choice, make_divisible, mbconv
from supernet.named import mobilenet_v2
from tvm_latency.opspec import OpSpec


class SpaceError(ValueError):
    """The preset is unknown or the choices do not belong to the space."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first of them has the stride."""

    out_channels: int
    blocks: int
    stride: int


@dataclass(frozen=True, kw_only=True)
class SpaceBlock:
    """One place of the space: what goes in and out, and which choices may stand there."""

    in_channels: int
    out_channels: int
    size: int
    stride: int
    candidates: tuple[Choice, ...]

    def op_spec(self, choice: Choice, batch: int = 1) -> OpSpec | None:
        """The operator of `choice` here; None for skip, which runs nothing."""
        if choice == SKIP:
            return None
        return mbconv(self.size, self.in_channels, Block(self.out_channels, choice, self.stride), batch)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Stem, a fixed k3 e1 block, stages of searched blocks, 1x1 head, mean pool, linear (ProxylessNAS, section 4.2).

    Skip is a candidate wherever a block keeps its shape (stride 1, equal channels).
    """

    name: str
    resolution: int
    classes: int
    stem_channels: int
    stem_stride: int
    first_channels: int
    stages: tuple[Stage, ...]
    head_channels: int
    baseline: Architecture
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[int, ...] = (3, 6)

    @property
    def blocks(self) -> tuple[SpaceBlock, ...]:
        """The searched blocks in order."""
        convolutions = tuple(Choice(k, e) for e in self.expands for k in self.kernels)
        size, channels, found = -(-self.resolution // self.stem_stride), self.first_channels, []
        for stage in self.stages:
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                keeps_shape = stride == 1 and channels == stage.out_channels
                found.append(
                    SpaceBlock(
                        in_channels=channels,
                        out_channels=stage.out_channels,
                        size=size,
                        stride=stride,
                        candidates=convolutions + ((SKIP,) if keeps_shape else ()),
                    )
                )
                size, channels = -(-size // stride), stage.out_channels
        return tuple(found)

    @property
    def size(self) -> int:
        """How many networks the space holds."""
        return math.prod(len(block.candidates) for block in self.blocks)

    def with_classes(self, classes: int) -> SearchSpace:
        """The same space, and baseline, for another number of classes."""
        return replace(self, classes=classes, baseline=self.baseline.with_classes(classes))

    def widened(self, width: float) -> SearchSpace:
        """The same space with every width multiplied, rounded as MobileNetV2's are; the baseline stays."""
        return replace(
            self,
            stem_channels=make_divisible(self.stem_channels * width),
            first_channels=make_divisible(self.first_channels * width),
            stages=tuple(replace(s, out_channels=make_divisible(s.out_channels * width)) for s in self.stages),
            head_channels=make_divisible(self.head_channels * width),
        )

    def architecture(self, choices: Sequence[Choice], name: str = "") -> Architecture:
        """The network with these choices, one for each searched block.

        Raises:
            SpaceError: too few or too many choices, or one that is no candidate of its block.
        """
        blocks = self.blocks
        if len(choices) != len(blocks):
            raise SpaceError(f"Space {self.name} has {len(blocks)} blocks to choose, got {len(choices)} choices.")
        for i, (block, choice) in enumerate(zip(blocks, choices)):
            if choice not in block.candidates:
                known = ", ".join(map(str, block.candidates))
                raise SpaceError(f"Block {i} of space {self.name} has no candidate {choice}: {known}.")
        return Architecture(
            resolution=self.resolution,
            stem_channels=self.stem_channels,
            stem_stride=self.stem_stride,
            blocks=(
                Block(self.first_channels, Choice(3, 1)),
                *(Block(b.out_channels, c, b.stride) for b, c in zip(blocks, choices)),
            ),
            head_channels=self.head_channels,
            classes=self.classes,
            name=name,
        )

    def random_architecture(self, random: Random, name: str = "") -> Architecture:
        """A network with every choice equally likely."""
        return self.architecture([random.choice(block.candidates) for block in self.blocks], name)

    def fixed_ops(self, batch: int = 1) -> tuple[OpSpec, ...]:
        """The operators every network of the space runs: stem, first block, head, pool, linear."""
        widest = self.architecture([block.candidates[0] for block in self.blocks]).op_specs(batch)
        return widest[:2] + widest[-3:]

    def op_specs(self, batch: int = 1) -> tuple[OpSpec, ...]:
        """Every distinct operator that some network of the space runs, fixed ones first."""

        def every() -> Iterator[OpSpec]:
            yield from self.fixed_ops(batch)
            for block in self.blocks:
                yield from (op for c in block.candidates if (op := block.op_spec(c, batch)) is not None)

        return tuple(dict.fromkeys(every()))


IMAGENET = SearchSpace(
    name="imagenet",
    resolution=224,
    classes=1000,
    stem_channels=32,
    stem_stride=2,
    first_channels=16,
    stages=(Stage(24, 4, 2), Stage(40, 4, 2), Stage(80, 4, 2), Stage(96, 4, 1), Stage(192, 4, 2), Stage(320, 1, 1)),
    head_channels=1280,
    baseline=mobilenet_v2(),
)

# Strides as is usual for MobileNetV2 on 32x32 images: three halvings instead of five.
CIFAR = replace(
    IMAGENET,
    name="cifar",
    resolution=32,
    classes=10,
    stem_stride=1,
    stages=(Stage(24, 4, 1), Stage(40, 4, 2), Stage(80, 4, 2), Stage(96, 4, 1), Stage(192, 4, 2), Stage(320, 1, 1)),
    baseline=mobilenet_v2(resolution=32, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1)),
)

# The embedded 8x8 digits, enlarged to 16x16: half the widths and half the depth, so that a CPU trains it in minutes.
DIGITS = SearchSpace(
    name="digits",
    resolution=16,
    classes=10,
    stem_channels=16,
    stem_stride=1,
    first_channels=8,
    stages=(Stage(16, 2, 1), Stage(24, 3, 2), Stage(48, 3, 2), Stage(96, 2, 2)),
    head_channels=320,
    baseline=mobilenet_v2(0.5, resolution=16, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1)),
)

PRESETS = {space.name: space for space in (IMAGENET, CIFAR, DIGITS)}


def preset(name: str) -> SearchSpace:
    """A space by name.

    Raises:
        SpaceError: unknown name; the message has close matches.
    """
    if name not in PRESETS:
        close = get_close_matches(name, PRESETS, n=2, cutoff=0.4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise SpaceError(f"Unknown space {name!r}.{hint} Known: {', '.join(PRESETS)}.")
    return PRESETS[name]
