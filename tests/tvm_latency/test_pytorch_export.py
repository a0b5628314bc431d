"""A network as its owner wrote it in PyTorch, through PyTorch's exporters, none of it our code."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import tvm
from torch import nn

from targets.registry import get_target
from tvm_latency.build import compile_onnx

pytestmark = [pytest.mark.compiles, pytest.mark.filterwarnings("ignore")]

# (expand, out channels, repeats, stride): MobileNetV2, table 2 of arXiv 1801.04381.
STAGES = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]


def conv(i: int, o: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False), nn.BatchNorm2d(o)]


class InvertedResidual(nn.Module):
    def __init__(self, i: int, o: int, stride: int, expand: int) -> None:
        super().__init__()
        hidden = i * expand
        layers = [*conv(i, hidden), nn.ReLU6()] if expand > 1 else []
        layers += [*conv(hidden, hidden, 3, stride, hidden), nn.ReLU6(), *conv(hidden, o)]
        self.layers = nn.Sequential(*layers)
        self.residual = stride == 1 and i == o

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class MobileNetV2(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers, channels = [*conv(3, 32, 3, 2), nn.ReLU6()], 32
        for expand, out, repeats, stride in STAGES:
            for i in range(repeats):
                layers.append(InvertedResidual(channels, out, stride if i == 0 else 1, expand))
                channels = out
        self.features = nn.Sequential(*layers, *conv(channels, 1280), nn.ReLU6())
        self.classifier = nn.Linear(1280, 100)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        return self.classifier(torch.flatten(x, 1))


@pytest.fixture(scope="module")
def network() -> MobileNetV2:
    """Batch norms as after a training: no mean of zero, no variance of one."""
    torch.manual_seed(0)
    net = MobileNetV2()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


EXPORTS = {
    "dynamo": {"dynamo": True, "verbose": False},
    "torchscript": {"dynamo": False},
    # Keeps every batch norm as a node of its own.
    "torchscript, nothing folded": {
        "dynamo": False,
        "do_constant_folding": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
    },
}


@pytest.mark.parametrize("export", EXPORTS.values(), ids=EXPORTS)
def test_a_mobilenet_from_pytorch_s_exporter_compiles_and_agrees(
    network: MobileNetV2, export: dict[str, object], tmp_path: Path
) -> None:
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(network, (x,), tmp_path / "net.onnx", **export)
    compiled = compile_onnx(onnx.load(tmp_path / "net.onnx"), get_target("x86"))
    assert compiled.fallbacks == ()
    got = compiled.load()(tvm.runtime.tensor(x.numpy())).numpy()
    with torch.no_grad():
        single, exact = network(x).numpy(), network.double()(x.double()).numpy()
    network.float()
    # As close to the exact answer as PyTorch's own float32 is, within a factor for another order of summation.
    assert abs(got - exact).max() <= 8 * abs(single - exact).max() + np.finfo(np.float32).eps * abs(exact).max()
