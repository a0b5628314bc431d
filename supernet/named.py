"""Published networks by name: MobileNetV2 (arXiv 1801.04381) and the ProxylessNAS nets (arXiv 1812.00332)."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches

from supernet.architecture import Architecture, ArchitectureError, Block, Choice, make_divisible

# (expand, out channels, repeats, stride): table 2 of arXiv 1801.04381.
_MOBILENET_V2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)

# The released configurations of github.com/mit-han-lab/proxylessnas, block by block.
_PROXYLESS = {
    "proxyless_mobile": (
        "r224 c32s2 16k3e1 32k5e3s2 32k3e3 40k7e3s2 40k3e3 40k5e3 40k5e3 80k7e6s2 80k5e3 80k5e3 80k5e3 "
        "96k5e6 96k5e3 96k5e3 96k5e3 192k7e6s2 192k7e6 192k7e3 192k7e3 320k7e6 h1280 n1000"
    ),
    "proxyless_cpu": (
        "r224 c40s2 24k3e1 32k3e6s2 32k3e3 32k3e3 32k3e3 48k3e6s2 48k3e3 48k3e3 48k5e3 88k3e6s2 88k3e3 "
        "104k5e6 104k3e3 104k3e3 104k3e3 216k5e6s2 216k5e3 216k5e3 216k3e3 360k5e6 h1432 n1000"
    ),
    "proxyless_gpu": (
        "r224 c40s2 24k3e1 32k5e3s2 56k7e3s2 56k3e3 112k7e6s2 112k5e3 128k5e6 128k3e3 128k5e3 "
        "256k7e6s2 256k7e6 256k7e6 256k5e6 432k7e6 h1728 n1000"
    ),
    # Released with widths of its own, not those of the multiplier's rounding rule.
    "proxyless_mobile@1.4": (
        "r224 c48s2 24k3e1 40k5e3s2 40k3e3 56k7e3s2 56k3e3 56k5e3 56k5e3 112k7e6s2 112k5e3 112k5e3 112k5e3 "
        "136k5e6 136k5e3 136k5e3 136k5e3 256k7e6s2 256k7e6 256k7e3 256k7e3 448k7e6 h1792 n1000"
    ),
}


def mobilenet_v2(
    width: float = 1.0,
    *,
    resolution: int = 224,
    classes: int = 1000,
    stem_stride: int = 2,
    strides: tuple[int, ...] | None = None,
) -> Architecture:
    """MobileNetV2 with a width multiplier; `strides` (one for each of its seven stages) suits it to small images."""
    blocks = []
    for stage, (expand, channels, repeats, stride) in enumerate(_MOBILENET_V2):
        first = strides[stage] if strides else stride
        out = make_divisible(channels * width)
        blocks += [Block(out, Choice(3, expand), first if i == 0 else 1) for i in range(repeats)]
    return Architecture(
        resolution=resolution,
        stem_channels=make_divisible(32 * width),
        stem_stride=stem_stride,
        blocks=tuple(blocks),
        head_channels=make_divisible(1280 * max(1.0, width)),
        classes=classes,
        name="mobilenet_v2" if width == 1.0 else f"mobilenet_v2@{width:g}",
    )


def _proxyless(name: str) -> Callable[[float], Architecture]:
    def build(width: float) -> Architecture:
        full_name = name if width == 1.0 else f"{name}@{width:g}"
        if full_name in _PROXYLESS:
            return Architecture.from_text(_PROXYLESS[full_name], name=full_name)
        net = Architecture.from_text(_PROXYLESS[name])
        return Architecture(
            resolution=net.resolution,
            stem_channels=make_divisible(net.stem_channels * width),
            stem_stride=net.stem_stride,
            blocks=tuple(Block(make_divisible(b.out_channels * width), b.choice, b.stride) for b in net.blocks),
            head_channels=make_divisible(net.head_channels * width),
            classes=net.classes,
            name=full_name,
        )

    return build


NAMED: dict[str, Callable[[float], Architecture]] = {
    "mobilenet_v2": mobilenet_v2,
    **{name: _proxyless(name) for name in _PROXYLESS if "@" not in name},
}


def named_architecture(name: str) -> Architecture:
    """`mobilenet_v2`, `mobilenet_v2@1.4`, `proxyless_mobile`, `proxyless_cpu`, `proxyless_gpu`.

    Raises:
        ArchitectureError: unknown name, or a width multiplier that is not a number between 0.1 and 4.
    """
    base, _, width = name.partition("@")
    if base not in NAMED:
        close = get_close_matches(base, NAMED, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ArchitectureError(
            f"Unknown network {name!r}.{hint} Known: {', '.join(NAMED)} (a width is written `name@1.4`)."
        )
    try:
        factor = float(width) if width else 1.0
    except ValueError:
        factor = 0.0
    if not 0.1 <= factor <= 4.0:
        raise ArchitectureError(
            f"In {name!r}, {width!r} is not a width multiplier: a number between 0.1 and 4, as in `{base}@1.4`."
        )
    return NAMED[base](factor)
