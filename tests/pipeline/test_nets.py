from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from pipeline.nets import NetError, resolve_net, space_of
from supernet.architecture import ArchitectureError
from supernet.presets import DIGITS
from supernet.space import SpaceError
from tvm_latency.onnx_graph import network_graph


def test_a_name() -> None:
    net = resolve_net("mobilenet_v2@1.4")
    assert net.name == "mobilenet_v2@1.4"
    assert net.require_architecture("a test").resolution == 224
    with pytest.raises(ArchitectureError, match=r"Did you mean mobilenet_v2"):
        resolve_net("mobilenetv2")


def test_a_network_for_another_task(tmp_path: Path) -> None:
    net = resolve_net("mobilenet_v2")
    assert net.for_task() is net
    small = net.for_task(resolution=96, classes=7)
    assert small.model.graph.input[0].type.tensor_type.shape.dim[-1].dim_value == 96
    assert small.model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value == 7
    assert small.require_architecture("a test") == replace(net.require_architecture("a test"), resolution=96, classes=7)
    path = tmp_path / "mine.onnx"
    onnx.save(network_graph(DIGITS.baseline.op_specs()), path)
    with pytest.raises(NetError, match="mine has weights, for the images and the classes"):
        resolve_net(str(path)).for_task(classes=7)
    trained = replace(net, weights=tmp_path / "w.pt")
    with pytest.raises(NetError, match="has weights"):
        trained.for_task(resolution=96)


def test_an_architecture_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(DIGITS.baseline.to_json()))
    net = resolve_net(str(path))
    assert net.architecture == DIGITS.baseline
    with pytest.raises(NetError, match="There is no file"):
        resolve_net(str(tmp_path / "other.json"))


def test_an_onnx_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.onnx"
    onnx.save(network_graph(DIGITS.baseline.op_specs()), path)
    net = resolve_net(str(path))
    assert net.name == "mine"
    assert net.model.graph.input[0].name == "image"
    with pytest.raises(NetError, match=r"mine is an .onnx file, and a prediction needs the architecture"):
        net.require_architecture("a prediction")


@pytest.mark.parametrize("content", [b"", b"not protobuf", b"\x08\x07"])
def test_a_broken_onnx_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(content)
    with pytest.raises(NetError, match=r"broken.onnx is not a valid ONNX model \(.+\). Export it again"):
        resolve_net(str(path))


def test_a_folder_that_has_no_network(tmp_path: Path) -> None:
    with pytest.raises(NetError, match="holds no derived network"):
        resolve_net(str(tmp_path))


def test_a_run_folder_before_and_after_training(tmp_path: Path) -> None:
    (tmp_path / "derive").mkdir()
    (tmp_path / "derive" / "result.json").write_text(json.dumps({"architecture": DIGITS.baseline.text}))
    net = resolve_net(str(tmp_path))
    assert net.architecture is not None
    assert net.architecture.text == DIGITS.baseline.text
    assert net.weights is None
    for name in ("train/winner.weights.pt", "export/winner.onnx"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    assert resolve_net(str(tmp_path)).weights == tmp_path / "train" / "winner.weights.pt"


def test_the_space_of_an_image_size() -> None:
    assert space_of(16) == "digits"
    with pytest.raises(SpaceError, match=r"No space is for images of 48 pixels \(.*digits 16\).$"):
        space_of(48)
    with pytest.raises(SpaceError, match=r"Name one with --space.$"):
        space_of(48, hint=" Name one with --space.")


def test_a_model_is_made_for_an_architecture_without_weights(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(DIGITS.baseline.to_json()))
    model = resolve_net(str(path)).model
    assert [output.name for output in model.graph.output] == ["logits"]
    assert model == resolve_net(str(path)).model
