from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from supernet.architecture import Architecture
from supernet.export import export_onnx, fold_batch_norm, to_onnx
from supernet.network import Network, build_network

ARCH = Architecture.from_text("r8 c8s1 8k3e1 16k5e3s2 16k7e2 16skip h16 n5")
# Additions on the longest way through the network: each adds at most half a unit in the last place of its value.
REDUCTION = sum(op.kernel**2 + op.in_channels * (1 + op.expand) for op in ARCH.op_specs())


@pytest.fixture(scope="module")
def network() -> Network:
    """Untrained weights, but batch norms with statistics worth folding."""
    torch.manual_seed(0)
    network = build_network(ARCH, dropout=0.5)
    for norm in network.modules():
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.running_mean.normal_(std=0.5)
            norm.running_var.uniform_(0.5, 2.0)
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
    return network


@pytest.fixture(scope="module")
def model(network: Network) -> onnx.ModelProto:
    return to_onnx(network, ARCH)


def test_folding_changes_no_output_in_float64(network: Network) -> None:
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    double = fold_batch_norm(network.double())
    expected = network.eval()(images)
    network.float()
    torch.testing.assert_close(double(images), expected, rtol=1e-12, atol=1e-12)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in double.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


def test_the_graph_has_six_kinds_of_nodes(model: onnx.ModelProto) -> None:
    nodes = [node.op_type for node in model.graph.node]
    assert set(nodes) == {"Conv", "Clip", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    assert nodes.count("Conv") == 1 + 2 + 3 + 3 + 1
    assert nodes.count("Add") == 2


def test_input_and_output(model: onnx.ModelProto) -> None:
    def shape(value: onnx.ValueInfoProto) -> tuple[str, list[int]]:
        return value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim]

    assert [shape(value) for value in model.graph.input] == [("image", [1, 3, 8, 8])]
    assert [shape(value) for value in model.graph.output] == [("logits", [1, 5])]


@pytest.mark.parametrize("batch", [1, 3])
def test_onnxruntime_computes_what_torch_computes(network: Network, batch: int) -> None:
    session = onnxruntime.InferenceSession(
        to_onnx(network, ARCH, batch).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    images = torch.randn(batch, 3, 8, 8)
    (found,) = session.run(["logits"], {"image": images.numpy()})
    with torch.no_grad():
        expected = network.eval()(images).numpy()
        scale = max(float(part.abs().max()) for part in (network.classifier.weight, network.features(images)))
    tolerance = REDUCTION * float(np.finfo(np.float32).eps) * scale
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    assert np.abs(expected).max() > 10 * tolerance


def test_equal_weights_give_equal_bytes_that_name_no_file(network: Network, tmp_path: Path) -> None:
    export_onnx(network, ARCH, tmp_path / "a.onnx")
    export_onnx(network, ARCH, tmp_path / "b.onnx")
    content = (tmp_path / "a.onnx").read_bytes()
    assert content == (tmp_path / "b.onnx").read_bytes()
    assert b".py" not in content
    onnx.checker.check_model(onnx.load(tmp_path / "a.onnx"), full_check=True)


def test_export_leaves_the_network_alone(network: Network) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()
    to_onnx(network, ARCH)
    assert network.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
