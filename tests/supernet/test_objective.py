from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from supernet.objective import ValidationImages
from supernet.space import SearchSpace
from supernet.supernet import SuperNet

PATH = [0, 1, 2]


@pytest.fixture
def net(tiny: SearchSpace) -> SuperNet:
    torch.manual_seed(0)
    net = SuperNet(tiny)
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_()
    return net


@pytest.fixture
def shares(tiny: SearchSpace) -> list[tuple[Tensor, Tensor]]:
    """Two batches of six."""
    images, labels = torch.randn(2, 6, 3, 8, 8), torch.arange(12).view(2, 6) % tiny.classes
    return list(zip(images, labels))


def test_the_loss_is_the_mean_cross_entropy_over_batches(net: SuperNet, shares: list[tuple[Tensor, Tensor]]) -> None:
    expected = sum(functional.cross_entropy(net(images, PATH), labels) for images, labels in shares) / 2
    torch.testing.assert_close(ValidationImages(net, shares).loss(PATH), expected)


def test_gates_get_the_gradient_of_those_among(net: SuperNet, shares: list[tuple[Tensor, Tensor]]) -> None:
    gates = [torch.zeros(count, requires_grad=True) for count in (3, 2, 3)]
    objective = ValidationImages(net, shares)
    whole = torch.autograd.grad(objective.loss(PATH, gates), gates)
    some = [[0, 2], [1], [1, 2]]
    part = torch.autograd.grad(objective.loss(PATH, gates, some), gates)
    for found, expected, among in zip(part, whole, some):
        assert torch.equal(found[among], expected[among])
        assert found.count_nonzero() == len(among)
        assert expected.count_nonzero() == len(expected)


def test_accuracy_counts_every_image_and_keeps_no_graph(net: SuperNet, shares: list[tuple[Tensor, Tensor]]) -> None:
    # Batches of different sizes: the mean over images is not that over batches.
    (images, labels), (more, of_more) = shares
    uneven = [(images, labels), (more[:2], of_more[:2])]
    right = sum(int((net(x, PATH).argmax(1) == y).sum()) for x, y in uneven)
    assert ValidationImages(net, uneven).accuracy(PATH) == right / 8
    answers = [(x, net(x, PATH).argmax(1)) for x, _ in uneven]
    assert ValidationImages(net, answers).accuracy(PATH) == 1.0
    assert all(weight.grad is None for weight in net.parameters())
