"""Every peer that is installed computes what the ONNX reference computes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline.agreement import onnx_reference, random_image, tolerance
from pipeline.peers.interface import BenchModel, RuntimeUnavailableError
from pipeline.peers.layers import read_layers
from pipeline.runtimes import RUNTIMES

IMAGE = random_image((1, 3, 16, 16))


@pytest.mark.parametrize(
    "name",
    ["onnxruntime", "openvino", "ncnn", "litert", pytest.param("torch.compile", marks=pytest.mark.slow)],
)
def test_a_peer_agrees(name: str, small: BenchModel, small_model: onnx.ModelProto) -> None:
    peer = RUNTIMES[name]
    for module in peer.packages:
        pytest.importorskip(module)
    if name == "torch.compile" and shutil.which("g++") is None:
        pytest.skip("no C++ compiler")
    bound = peer.prepare(small, 1, IMAGE)
    bound.run()
    expected = onnx_reference(small_model)(IMAGE)
    output = bound.output()
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() <= tolerance(small_model) * max(1.0, np.abs(expected).max())


def test_layers_as_a_module_agree(small_model: onnx.ModelProto) -> None:
    import torch

    from pipeline.peers.torch_layers import LayerModule

    module = LayerModule(read_layers(small_model, "torch.compile")).eval()
    expected = onnx_reference(small_model)(IMAGE)
    with torch.inference_mode():
        output = module(torch.from_numpy(IMAGE)).numpy()
    assert np.abs(output - expected).max() <= tolerance(small_model) * max(1.0, np.abs(expected).max())


def test_torch_compile_needs_a_compiler(small: BenchModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(RuntimeUnavailableError, match=r"needs a C\+\+ compiler, and there is no `no-such-compiler`"):
        RUNTIMES["torch.compile"].prepare(small, 1, IMAGE)


def test_ncnn_says_what_pnnx_cannot_convert(tmp_path: Path) -> None:
    for module in RUNTIMES["ncnn"].packages:
        pytest.importorskip(module)
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a model")
    with pytest.raises(RuntimeUnavailableError, match=r"pnnx cannot convert this network for ncnn"):
        RUNTIMES["ncnn"].prepare(BenchModel(onnx_file=str(broken), library=""), 1, IMAGE)
