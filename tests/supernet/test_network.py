from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.architecture import Architecture
from supernet.named import named_architecture
from supernet.network import BN_EPS, BN_MOMENTUM, ConvBN, MBConv, build_layer, build_network
from supernet.presets import DIGITS
from tvm_latency.opspec import OpSpec

SMALL = Architecture.from_text("r8 c4s2 6k3e2s2 6skip 6k5e1 h8 n10")


@pytest.mark.parametrize("name", ["mobilenet_v2", "proxyless_mobile", "proxyless_cpu", "proxyless_gpu"])
def test_parameters_are_those_that_the_architecture_counts(name: str) -> None:
    arch = named_architecture(name)
    with torch.device("meta"):
        network = build_network(arch)
    assert sum(parameter.numel() for parameter in network.parameters()) == arch.params


@settings(max_examples=30)
@given(
    size=st.integers(1, 9),
    in_channels=st.integers(1, 6),
    out_channels=st.integers(1, 6),
    kernel=st.sampled_from([3, 5, 7]),
    stride=st.sampled_from([1, 2]),
    expand=st.sampled_from([1, 3]),
)
def test_block_has_the_shape_and_the_parameters_of_its_operator(
    size: int, in_channels: int, out_channels: int, kernel: int, stride: int, expand: int
) -> None:
    op = OpSpec(
        kind="mbconv",
        height=size,
        width=size,
        in_channels=in_channels,
        out_channels=out_channels,
        kernel=kernel,
        stride=stride,
        expand=expand,
    )
    block = build_layer(op).eval()
    assert block(torch.zeros(2, in_channels, size, size)).shape == (2, out_channels, op.out_height, op.out_width)
    assert sum(parameter.numel() for parameter in block.parameters()) == op.params


def test_residual_adds_the_input() -> None:
    op = OpSpec(kind="mbconv", height=4, width=4, in_channels=3, out_channels=3, kernel=3, expand=2)
    block = MBConv(op).eval()
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(block(x), x + block.layers(x))
    changed = MBConv(OpSpec(kind="mbconv", height=4, width=4, in_channels=3, out_channels=3, kernel=3, stride=2))
    assert changed(x).shape == (1, 3, 2, 2)


def test_batch_norm_is_that_of_the_published_networks() -> None:
    norms = [m for m in build_network(SMALL).modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {(norm.momentum, norm.eps) for norm in norms} == {(BN_MOMENTUM, BN_EPS)} == {(0.1, 1e-3)}


def test_projection_is_linear_and_the_rest_is_clipped_to_six() -> None:
    network = build_network(SMALL)
    layers = [module for module in network.modules() if isinstance(module, ConvBN)]
    assert [isinstance(layer[-1], torch.nn.ReLU6) for layer in layers] == [True, True, True, False, True, False, True]


def test_weights_depend_on_the_seed_alone() -> None:
    def drawn(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build_network(SMALL).parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


def test_signal_keeps_its_size_through_depthwise_layers() -> None:
    torch.manual_seed(0)
    depthwise = [m for m in build_network(DIGITS.baseline).modules() if isinstance(m, torch.nn.Conv2d) and m.groups > 1]
    for conv in depthwise:
        # The mean square of n normal values is within 5 sigma = 5 * sqrt(2 / n) of its expectation.
        expected, n = 2.0 / conv.kernel_size[0] ** 2, conv.weight.numel()
        assert conv.weight.square().mean().item() == pytest.approx(expected, rel=5 * (2 / n) ** 0.5)


def test_dropout_is_where_it_was_asked_for() -> None:
    network = build_network(SMALL, dropout=0.25)
    assert network.dropout.p == 0.25
    images = torch.rand(4, 3, 8, 8)
    assert network.eval()(images).shape == (4, 10)
    torch.testing.assert_close(network(images), network(images), rtol=0, atol=0)


def test_convolutions_are_channels_last() -> None:
    network = build_network(SMALL)
    assert network.features[0][0].weight.is_contiguous(memory_format=torch.channels_last)
