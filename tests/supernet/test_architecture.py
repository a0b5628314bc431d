from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supernet.architecture import SKIP, Architecture, ArchitectureError, Block, Choice, make_divisible
from supernet.named import mobilenet_v2

SIZES = st.integers(1, 2000)
CHOICES = st.builds(Choice, st.sampled_from([1, 3, 5, 7]), st.integers(1, 8))
BLOCKS = st.builds(Block, SIZES, CHOICES, st.sampled_from([1, 2])) | st.builds(Block, SIZES, st.just(SKIP))
ARCHITECTURES = st.builds(
    Architecture,
    resolution=SIZES,
    stem_channels=SIZES,
    stem_stride=st.sampled_from([1, 2]),
    blocks=st.lists(BLOCKS, min_size=1, max_size=8).map(tuple),
    head_channels=SIZES,
    classes=SIZES,
)
SMALL = Architecture.from_text("r8 c4s2 6k3e2s2 6skip 6k5e1 h8 n10")


@given(ARCHITECTURES)
def test_text_round_trip(arch: Architecture) -> None:
    assert Architecture.from_text(arch.text) == arch


@given(ARCHITECTURES)
def test_json_round_trip_and_counts(arch: Architecture) -> None:
    data = json.loads(json.dumps(arch.to_json()))
    assert Architecture.from_text(data["architecture"], data["name"]) == arch
    assert data["macs"] == sum(op.macs for op in arch.op_specs())


def test_macs_and_params_by_hand() -> None:
    stem = 4 * 4 * 9 * 3 * 4
    first = 16 * 4 * 8 + 4 * 9 * 8 + 4 * 8 * 6  # expand at 4x4, depthwise and project at 2x2
    last = 4 * 25 * 6 + 4 * 6 * 6
    assert SMALL.macs == stem + first + last + 4 * 6 * 8 + 8 * 10
    stem, first = 9 * 3 * 4 + 8, (4 * 8 + 16) + (9 * 8 + 16) + (8 * 6 + 12)
    last, head, linear = (25 * 6 + 12) + (6 * 6 + 12), 6 * 8 + 16, 8 * 10 + 10
    assert SMALL.params == stem + first + last + head + linear


def test_skip_runs_nothing_and_batch_scales_macs() -> None:
    assert [op.kind for op in SMALL.op_specs()] == ["conv", "mbconv", "mbconv", "conv", "pool", "linear"]
    assert sum(op.macs for op in SMALL.op_specs(batch=3)) == 3 * SMALL.macs
    assert [op.residual for op in SMALL.op_specs()] == [False, False, True, False, False, False]


def test_with_classes() -> None:
    assert SMALL.with_classes(3).text == SMALL.text.replace("n10", "n3")


def test_for_images_drops_the_first_strides() -> None:
    assert SMALL.total_stride == 4
    assert SMALL.for_images(16, 2).text == "r16 c4s1 6k3e2s2 6skip 6k5e1 h8 n10"
    assert SMALL.for_images(16, 1).text == "r16 c4s1 6k3e2 6skip 6k5e1 h8 n10"
    assert SMALL.for_images(64, 32).text == SMALL.text.replace("r8", "r64")


def test_for_images_makes_of_mobilenet_v2_what_is_usual_on_small_images() -> None:
    usual = mobilenet_v2(0.5, resolution=32, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1))
    assert mobilenet_v2(0.5, classes=10).for_images(32, 8) == usual


@given(ARCHITECTURES, st.integers(1, 64), SIZES)
def test_for_images_keeps_everything_but_strides(arch: Architecture, total_stride: int, resolution: int) -> None:
    adapted = arch.for_images(resolution, total_stride)
    assert adapted.total_stride <= max(1, total_stride)
    assert (adapted.total_stride == arch.total_stride) == (arch.total_stride <= total_stride)
    assert adapted.resolution == resolution
    assert adapted.params == arch.params


@pytest.mark.parametrize(
    "text", ["", "mobilenet", "r8 c4s2 h8 n10 6k3e2", "r8 c4s2 6k3 h8 n10", "r8 c4s2 6k3e2s2x h8 n10"]
)
def test_bad_text(text: str) -> None:
    with pytest.raises(ArchitectureError, match=r"is not an architecture. The form is `r224"):
        Architecture.from_text(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("r8 c4s0 8k3e1 h8 n10", "conv: every size must be at least 1"),
        ("r8 c0s2 8k3e1 h8 n10", "conv: every size must be at least 1"),
        ("r0 c4s2 8k3e1 h8 n10", "conv: every size must be at least 1"),
        ("r8 c4s2 8k3e0 h8 n10", "mbconv: every size must be at least 1"),
        ("r8 c4s2 8k4e1 h8 n10", "mbconv: the kernel size must be odd and positive, got 4"),
        ("r8 c4s2 8k3e1 h8 n0", "linear: every size must be at least 1"),
        (f"r{'9' * 5000} c4s2 8k3e1 h8 n10", ""),
    ],
    ids=lambda text: text[:24],
)
def test_text_of_a_network_that_cannot_run(text: str, reason: str) -> None:
    with pytest.raises(ArchitectureError, match=f"is no network that can run. {reason}"):
        Architecture.from_text(text)


def test_file_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "architecture.json"
    path.write_text(json.dumps(SMALL.to_json()))
    assert Architecture.from_file(path) == SMALL


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe"])
def test_file_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ArchitectureError, match=r"a.json is not JSON .*netlathe search"):
        Architecture.from_file(tmp_path / "a.json")


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": "netlathe-architecture/1"}', '{"format": "other/1"}'])
def test_json_that_is_no_architecture(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ArchitectureError, match=r'a.json is not an architecture file: "format" must be'):
        Architecture.from_file(tmp_path / "a.json")


@pytest.mark.parametrize(("channels", "expected"), [(1, 8), (8, 8), (12, 16), (33.6, 32), (44.8, 48), (134.4, 136)])
def test_make_divisible(channels: float, expected: int) -> None:
    assert make_divisible(channels) == expected


@given(st.floats(8, 4000))
def test_make_divisible_is_never_more_than_a_tenth_below(channels: float) -> None:
    rounded = make_divisible(channels)
    assert rounded % 8 == 0
    assert rounded >= 0.9 * channels
