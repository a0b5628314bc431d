from __future__ import annotations

import onnx
import pytest

from pipeline.peers.interface import BenchModel
from supernet.presets import DIGITS
from tvm_latency.onnx_graph import network_graph


@pytest.fixture(scope="session")
def small_model() -> onnx.ModelProto:
    """MobileNetV2 for images of 16 pixels."""
    return network_graph(DIGITS.baseline.op_specs())


@pytest.fixture(scope="session")
def small(small_model: onnx.ModelProto, tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    path = tmp_path_factory.mktemp("peers") / "net.onnx"
    path.write_bytes(small_model.SerializeToString())
    return BenchModel(onnx_file=str(path), library="")
