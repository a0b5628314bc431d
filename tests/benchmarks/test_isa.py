from __future__ import annotations

import pytest

from benchmarks.isa import AVX2, FULL, Isa
from pipeline.runtimes import PEERS, RuntimeUnavailableError
from targets.target import TARGETS


@pytest.mark.parametrize("isa", [FULL, AVX2], ids=lambda isa: isa.name)
def test_every_peer_is_known_and_every_target_too(isa: Isa) -> None:
    assert set(isa.peers) <= set(PEERS)
    assert set(isa.targets) <= set(TARGETS)


def test_a_peer_is_restricted_or_left_out_by_name() -> None:
    assert set(AVX2.restrictions) | set(AVX2.left_out) == set(PEERS)
    assert AVX2.environment["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert FULL.environment == {}
    assert (FULL.suffix, AVX2.suffix) == ("", "_avx2")


def test_a_peer_that_cannot_be_restricted_is_refused() -> None:
    assert AVX2.permitted(["openvino"]) == ["openvino"]
    with pytest.raises(RuntimeUnavailableError, match="ncnn cannot be compared for avx2: it chooses its kernels by"):
        AVX2.permitted(["openvino", "ncnn"])
