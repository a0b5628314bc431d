"""SearchSpace: the networks a search may choose from. No torch."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from random import Random

from supernet.architecture import SKIP, Architecture, Block, Choice, make_divisible, mbconv
from tvm_latency.opspec import OpSpec


class SpaceError(ValueError):
    """There is no such space, or no network has what it asks for, or the choices are not of the space."""


@dataclass(frozen=True)
class Stage:
    """Blocks of one width; the first of them has the stride. Kernels and expansions are the space's unless given."""

    out_channels: int
    blocks: int
    stride: int
    kernels: tuple[int, ...] | None = None
    expands: tuple[int, ...] | None = None


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

    def peak_bytes(self, choice: Choice) -> int:
        """Bytes of activations of `choice` for one image; 0 for skip."""
        return 0 if (op := self.op_spec(choice)) is None else op.peak_bytes

    def within_memory(self, limit_bytes: int) -> SpaceBlock:
        """The same place with the candidates that need no more; it may be left with none."""
        return replace(self, candidates=tuple(c for c in self.candidates if self.peak_bytes(c) <= limit_bytes))


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Stem, a fixed k3 e1 block, stages of searched blocks, 1x1 head, mean pool, linear (ProxylessNAS, section 4.2).

    Skip is a candidate wherever a block keeps its shape (stride 1, equal channels), unless `skip` is false. With
    `max_activation_bytes` (0: no limit) candidates whose operator has more `peak_bytes` for one image are none. So
    every network of the space keeps that limit, and a search has nothing to weigh against it.

    Raises:
        SpaceError: more strides than pixels, or a limit that a fixed operator or a whole block exceeds.
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
    skip: bool = True
    max_activation_bytes: int = 0

    def __post_init__(self) -> None:
        self._check_strides("space", self.total_stride, "smaller strides in stem and stages")
        self._check_strides("baseline of space", self.baseline.total_stride, "a baseline with smaller strides")
        if self.max_activation_bytes:
            self._check_memory()

    @property
    def total_stride(self) -> int:
        """The product of all strides: a side of the last image has a pixel for so many of the first."""
        return self.stem_stride * math.prod(stage.stride for stage in self.stages)

    @property
    def blocks(self) -> tuple[SpaceBlock, ...]:
        """The searched blocks in order."""
        size, channels, found = -(-self.resolution // self.stem_stride), self.first_channels, []
        for stage in self.stages:
            kernels = self.kernels if stage.kernels is None else stage.kernels
            expands = self.expands if stage.expands is None else stage.expands
            convolutions = tuple(Choice(k, e) for e in expands for k in kernels)
            for i in range(stage.blocks):
                stride = stage.stride if i == 0 else 1
                keeps_shape = stride == 1 and channels == stage.out_channels
                block = SpaceBlock(
                    in_channels=channels,
                    out_channels=stage.out_channels,
                    size=size,
                    stride=stride,
                    candidates=convolutions + ((SKIP,) if keeps_shape and self.skip else ()),
                )
                found.append(block.within_memory(self.max_activation_bytes) if self.max_activation_bytes else block)
                size, channels = -(-size // stride), stage.out_channels
        return tuple(found)

    def _check_strides(self, owner: str, total: int, other: str) -> None:
        if self.resolution < total:
            raise SpaceError(
                f"The strides of the {owner} {self.name} multiply to {total}, more than its resolution of "
                f"{self.resolution} pixels: nothing would be left of an image. Take {total} pixels or more, or {other}."
            )

    def _check_memory(self) -> None:
        free = replace(self, max_activation_bytes=0)
        needs = [(op, f"Every network of space {self.name} runs {op.key}") for op in free.fixed_ops()]
        for i, block in enumerate(free.blocks):
            op = block.op_spec(min(block.candidates, key=block.peak_bytes))
            if op is not None:
                needs.append((op, f"Block {i} of space {self.name} has no smaller operator than {op.key}"))
        op, what = max(needs, key=lambda need: need[0].peak_bytes)
        if op.peak_bytes > self.max_activation_bytes:
            raise SpaceError(
                f"{what}, which needs {op.peak_bytes} bytes of activations, more than the limit of "
                f"{self.max_activation_bytes}. The least limit that works is {op.peak_bytes}."
            )

    @property
    def size(self) -> int:
        """How many networks the space holds."""
        return math.prod(len(block.candidates) for block in self.blocks)

    def describe(self) -> str:
        """One line: `cifar: 21 blocks, 2.2e+17 networks, 32 pixels, 10 classes`, and the limit of memory if any."""
        # Decimal, since a float ends at 1e308.
        networks = str(self.size) if self.size < 10**6 else f"{Decimal(self.size):.2g}"
        limit = f", at most {self.max_activation_bytes} bytes of activations" if self.max_activation_bytes else ""
        return (
            f"{self.name}: {len(self.blocks)} blocks, {networks} networks, {self.resolution} pixels, "
            f"{self.classes} classes{limit}"
        )

    def with_classes(self, classes: int) -> SearchSpace:
        """The same space, and baseline, for another number of classes."""
        return replace(self, classes=classes, baseline=self.baseline.with_classes(classes))

    def within_memory(self, limit_bytes: int) -> SearchSpace:
        """The same space without the candidates whose operator has more `peak_bytes` for one image.

        The name stays: the operators are some of the space's, so its calibration holds. A lower limit that the space
        already has is kept.

        Raises:
            SpaceError: the limit is below one byte, or below what every network needs; the message names the least.
        """
        if limit_bytes < 1:
            raise SpaceError(f"A limit of activations must be 1 byte or more, got {limit_bytes}.")
        return replace(self, max_activation_bytes=min(limit_bytes, self.max_activation_bytes or limit_bytes))

    def for_task(self, *, classes: int | None = None, resolution: int | None = None, width: float = 1.0) -> SearchSpace:
        """The same space for other classes, images of `resolution` pixels a side, or with every width multiplied.

        Strides stay, and so does the baseline's width. A calibration is found by the space's name, so it tells what
        changes operators: `cifar@0.5`, `cifar-r48`, `cifar@0.5-r48`. Classes change only the cheap classifier and
        share it.

        Raises:
            SpaceError: fewer than 1 class, fewer pixels than the strides need, a width that is not a positive finite
                number, or too little memory for it.
        """
        if classes is not None and classes < 1:
            raise SpaceError(f"A space needs 1 class or more, got {classes}.")
        if not 0.0 < width < math.inf:
            raise SpaceError(f"A width multiplies channels and must be a positive number such as 0.5, got {width}.")
        base = re.sub(r"-r\d+$", "", self.name)
        of_resolution = self.name[len(base) :]
        if width != 1.0:
            # Every digit counts: two widths with one name would share a calibration.
            base = f"{base}@{repr(float(width)).removesuffix('.0')}"
        if resolution not in (None, self.resolution):
            of_resolution = f"-r{resolution}"
        changed = replace(self, name=base + of_resolution, max_activation_bytes=0)
        if width != 1.0:
            changed = changed.widened(width)
        if resolution is not None:
            baseline = replace(self.baseline, resolution=resolution)
            changed = replace(changed, resolution=resolution, baseline=baseline)
        if classes is not None:
            changed = changed.with_classes(classes)
        return replace(changed, max_activation_bytes=self.max_activation_bytes)

    def widened(self, width: float) -> SearchSpace:
        """The same space with every width multiplied, rounded as MobileNetV2's are; baseline and name stay.

        Without a limit of activations, which wider operators may not keep.
        """
        return replace(
            self,
            max_activation_bytes=0,
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
