"""The reference network, which is timed beside everything else and tells how the machine does."""

from __future__ import annotations

from tvm_latency.opspec import OpSpec


def _mbconv(size: int, channels: int, out: int, kernel: int, stride: int = 1) -> OpSpec:
    return OpSpec(
        kind="mbconv",
        height=size,
        width=size,
        in_channels=channels,
        out_channels=out,
        kernel=kernel,
        stride=stride,
        expand=6,
    )


# A little of all that networks are made of, with more weights than second-level caches hold, so that it slows
# down with clocks and with neighbours that take memory.
REFERENCE_OPS: tuple[OpSpec, ...] = (
    _mbconv(28, 32, 48, kernel=5, stride=2),
    _mbconv(14, 48, 96, kernel=3),
    _mbconv(14, 96, 160, kernel=5, stride=2),
    OpSpec(kind="conv", height=7, width=7, in_channels=160, out_channels=1280),
    OpSpec(kind="pool", height=7, width=7, in_channels=1280, out_channels=1280),
    OpSpec(kind="linear", height=1, width=1, in_channels=1280, out_channels=1000),
)
