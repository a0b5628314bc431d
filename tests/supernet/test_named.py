from __future__ import annotations

import pytest

from supernet.architecture import Architecture, ArchitectureError, Block
from supernet.named import NAMED, mobilenet_v2, named_architecture

# Published, or computed from the released files of github.com/mit-han-lab/proxylessnas: millions.
PUBLISHED = {
    "mobilenet_v2": (300, 3.5),
    "mobilenet_v2@1.4": (582, 6.1),
    "proxyless_mobile": (320.4, 4.08),
    "proxyless_cpu": (439.2, 4.36),
    "proxyless_gpu": (465.3, 7.12),
    "proxyless_mobile@1.4": (580.9, 6.86),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_macs_and_params(name: str) -> None:
    arch, (macs, params) = named_architecture(name), PUBLISHED[name]
    assert arch.name == name
    assert arch.macs / 1e6 == pytest.approx(macs, abs=0.05 if "proxy" in name else 1.0)
    assert arch.params / 1e6 == pytest.approx(params, abs=0.005 if "proxy" in name else 0.05)
    assert Architecture.from_text(arch.text, name) == arch


def test_mobilenet_v2_for_small_images() -> None:
    arch = mobilenet_v2(0.5, resolution=16, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1))
    assert arch.name == "mobilenet_v2@0.5"
    assert [block.stride for block in arch.blocks if block.stride != 1] == [2, 2, 2]
    assert len(arch.blocks) == 17
    assert arch.head_channels == 1280


def test_width_of_a_proxyless_net_follows_the_rounding_rule() -> None:
    whole, half = named_architecture("proxyless_cpu"), named_architecture("proxyless_cpu@0.5")
    assert half.stem_channels == 24
    assert half.blocks[1] == Block(16, whole.blocks[1].choice, 2)
    assert half.head_channels == 720


def test_unknown_name_has_close_matches() -> None:
    with pytest.raises(ArchitectureError, match=r"Unknown network 'proxyless_mobil'. Did you mean proxyless_mobile"):
        named_architecture("proxyless_mobil")
    with pytest.raises(ArchitectureError, match=f"Unknown network 'zzz'. Known: {', '.join(NAMED)}"):
        named_architecture("zzz")


@pytest.mark.parametrize("width", ["wide", "0.01", "5", "nan", "-1"])
def test_bad_width(width: str) -> None:
    with pytest.raises(ArchitectureError, match=f"'{width}' is not a width multiplier"):
        named_architecture(f"mobilenet_v2@{width}")
