"""Small networks that every form of an artefact is tried on."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec


@pytest.fixture(scope="session")
def network() -> Callable[[int], onnx.ModelProto]:
    """A network for images of so many pixels a side, with one kernel of every kind."""

    def make(size: int) -> onnx.ModelProto:
        half = -(-size // 2)

        def block(i: int, o: int, **rest: int) -> OpSpec:
            return OpSpec(kind="mbconv", height=half, width=half, in_channels=i, out_channels=o, kernel=3, **rest)

        return network_graph(
            [
                OpSpec(kind="conv", height=size, width=size, in_channels=3, out_channels=8, kernel=3, stride=2),
                block(8, 12, expand=3),
                block(12, 12, expand=6),
                OpSpec(kind="pool", height=half, width=half, in_channels=12, out_channels=12),
                OpSpec(kind="linear", height=1, width=1, in_channels=12, out_channels=10),
            ]
        )

    return make
