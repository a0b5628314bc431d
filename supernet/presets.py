"""The search spaces with a name. No torch."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches

from supernet.named import mobilenet_v2
from supernet.space import SearchSpace, SpaceError, Stage

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
