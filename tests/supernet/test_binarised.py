from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from supernet.architecture import SKIP, Choice
from supernet.binarised import BinarisedBlock
from supernet.network import initialise
from supernet.space import SearchSpace, SpaceBlock, Stage
from supernet.supernet import SuperNet

CANDIDATES = (Choice(3, 2), Choice(5, 2), Choice(3, 3), SKIP)


def make_block(candidates: tuple[Choice, ...] = CANDIDATES) -> BinarisedBlock:
    torch.manual_seed(0)
    block = BinarisedBlock(SpaceBlock(in_channels=4, out_channels=4, size=5, stride=1, candidates=candidates))
    initialise(block)
    return block.double()


def dense_forward(net: SuperNet, images: Tensor, gates: list[Tensor]) -> Tensor:
    """What the gates stand for: every candidate runs, weighted by its gate."""
    x = net.stem(images)
    for block, g in zip(net.blocks, gates):
        x = sum(g[k] * candidate(x) for k, candidate in enumerate(block.candidates))
    return net.head(x)


@pytest.mark.parametrize("chosen", range(len(CANDIDATES)))
def test_output_is_that_of_the_chosen_candidate(chosen: int) -> None:
    block, x = make_block(), torch.randn(2, 4, 5, 5, dtype=torch.float64)
    gates = torch.full((4,), 0.25, dtype=torch.float64, requires_grad=True)
    assert torch.equal(block(x, chosen, gates), block.candidates[chosen](x))
    assert torch.equal(block(x, chosen), block.candidates[chosen](x))


def test_skip_is_the_identity() -> None:
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(make_block()(x, CANDIDATES.index(SKIP)), x)


@pytest.mark.parametrize("chosen", range(len(CANDIDATES)))
def test_alpha_gradient_equals_that_of_the_dense_softmax_mixture(chosen: int) -> None:
    """One block, loss <c, y>: dL/dy = c wherever y is, so whichever path is sampled the gradient is the mixture's.

    The mixture y = sum_k softmax(alpha)_k o_k(x) goes through autograd alone; both equal the paper's equation 4.
    """
    block = make_block()
    x, c = torch.randn(2, 2, 4, 5, 5, dtype=torch.float64)
    alpha = torch.randn(4, dtype=torch.float64, requires_grad=True)

    (binarised,) = torch.autograd.grad((c * block(x, chosen, alpha.softmax(0))).sum(), alpha)

    outputs = torch.stack([candidate(x) for candidate in block.candidates])
    (dense,) = torch.autograd.grad((c * torch.einsum("k,kbchw->bchw", alpha.softmax(0), outputs)).sum(), alpha)
    torch.testing.assert_close(binarised, dense, rtol=0, atol=1e-6)

    p, g = alpha.softmax(0), torch.stack([(o * c).sum() for o in outputs])
    torch.testing.assert_close(binarised, p * (g - (p * g).sum()), rtol=0, atol=1e-6)
    assert dense.abs().max() > 1e-2


def test_gate_gradients_of_a_whole_supernet_equal_those_of_the_dense_graph(tiny: SearchSpace) -> None:
    """Any loss, any depth: dL/dg at the sampled one-hot gates equals autograd's through the graph that runs everything.

    Here the sampled path matters, so the dense graph is taken at the same one-hot point.
    """
    torch.manual_seed(1)
    net = SuperNet(tiny).double()
    with torch.no_grad():  # else the candidates agree, and residual branches are zero
        for parameter in net.parameters():
            parameter.normal_()
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % tiny.classes
    some = [[0, 2], [1], [2, 1]]
    for path in ([0, 1, 2], [2, 0, 1]):
        gates = [torch.zeros(len(b.candidates), dtype=torch.float64, requires_grad=True) for b in tiny.blocks]
        loss = functional.cross_entropy(net(images, path, gates), labels)
        binarised = torch.autograd.grad(loss, gates)

        one_hot = [functional.one_hot(torch.tensor(k), len(g)).double().requires_grad_() for k, g in zip(path, gates)]
        dense_loss = functional.cross_entropy(dense_forward(net, images, one_hot), labels)
        torch.testing.assert_close(loss, dense_loss, rtol=0, atol=1e-12)
        dense = torch.autograd.grad(dense_loss, one_hot)
        for found, expected in zip(binarised, dense):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            assert expected.abs().min() > 1e-6, "gradients of zero prove nothing"

        loss = functional.cross_entropy(net(images, path, gates, some), labels)
        for found, expected, among in zip(torch.autograd.grad(loss, gates), dense, some):
            assert found[among].tolist() == pytest.approx(expected[among].tolist(), abs=1e-6)
            others = [k for k in range(len(found)) if k not in among]
            assert found[others].tolist() == [0.0] * len(others)


def test_weights_get_the_gradient_of_the_chosen_path_only() -> None:
    block = make_block()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64, requires_grad=True)
    gates = torch.full((4,), 0.25, dtype=torch.float64, requires_grad=True)
    block(x, 1, gates).square().sum().backward()
    found = [p.grad for p in block.candidates[1].parameters()]
    x_grad, x.grad = x.grad, None
    block.zero_grad()
    block.candidates[1](x).square().sum().backward()
    for grad, parameter in zip(found, block.candidates[1].parameters(), strict=True):
        torch.testing.assert_close(grad, parameter.grad, rtol=0, atol=0)
    torch.testing.assert_close(x_grad, x.grad, rtol=0, atol=0)
    assert all(p.grad is None for k in (0, 2) for p in block.candidates[k].parameters())


def test_running_every_candidate_in_backward_leaves_no_trace() -> None:
    block = make_block()
    before = {name: value.clone() for name, value in block.state_dict().items()}
    gates = torch.full((4,), 0.25, dtype=torch.float64, requires_grad=True)
    block(torch.randn(2, 4, 5, 5, dtype=torch.float64), 0, gates).sum().backward()
    assert gates.grad is not None
    for name, value in block.state_dict().items():
        assert torch.equal(value, before[name])
    assert not any(name.endswith("running_mean") for name in before)


def test_candidates_that_agree_start_as_one_function() -> None:
    """Equal expansion: the same output whatever the kernel. Residual: the input itself, as skip."""
    candidates = (Choice(3, 2), Choice(5, 2), Choice(7, 2), Choice(3, 3))
    torch.manual_seed(0)
    block = BinarisedBlock(SpaceBlock(in_channels=4, out_channels=6, size=5, stride=1, candidates=candidates)).double()
    initialise(block)
    block.agree()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    outputs = [candidate(x) for candidate in block.candidates]
    for output in outputs[1:3]:
        torch.testing.assert_close(output, outputs[0], rtol=0, atol=1e-12)
    assert (outputs[3] - outputs[0]).abs().max() > 0.1
    wide, narrow = (block.candidates[k].layers[0][0].weight for k in (3, 0))
    assert torch.equal(wide[: len(narrow)], narrow)

    residual = make_block()
    residual.agree()
    for candidate in residual.candidates:
        assert torch.equal(candidate(torch.ones_like(x)), torch.ones_like(x))


def test_a_pruned_candidate_costs_no_weights_and_gets_no_gradient() -> None:
    block = make_block()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    gates = torch.full((4,), 0.25, dtype=torch.float64, requires_grad=True)
    (before,) = torch.autograd.grad(block(x, 0, gates).square().sum(), gates)
    weights = sum(p.numel() for p in block.parameters())
    given_up = sum(p.numel() for p in block.candidates[1].parameters())
    block.prune(1)
    assert block.alive() == [0, 2, 3]
    assert sum(p.numel() for p in block.parameters()) == weights - given_up
    assert not any(name.startswith("candidates.1.") for name in block.state_dict())
    (after,) = torch.autograd.grad(block(x, 0, gates).square().sum(), gates)
    assert after[1].item() == 0.0
    assert after[block.alive()].tolist() == before[block.alive()].tolist()
    with pytest.raises(NotImplementedError, match="_Pruned"):
        block(x, 1)


def bytes_for_backward(net: SuperNet, forward: Callable[[], Tensor]) -> int:
    """Bytes of distinct activations that autograd keeps for the backward of a loss."""
    parameters = {parameter.untyped_storage().data_ptr() for parameter in net.parameters()}
    # The tensors themselves are kept, so that no address is used twice.
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = tensor.detach()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward().backward()
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def dense_bytes(net: SuperNet, images: Tensor, labels: Tensor) -> int:
    """Of an alpha step that lets every candidate run, weighted by its probability."""
    gates = [alpha.softmax(0) for alpha in make_alphas(net)]
    return bytes_for_backward(net, lambda: functional.cross_entropy(dense_forward(net, images, gates), labels))


def make_alphas(net: SuperNet) -> list[Tensor]:
    return [torch.zeros(len(block.candidates), requires_grad=True) for block in net.blocks]


def binarised_bytes(net: SuperNet, images: Tensor, labels: Tensor, among: list[list[int]] | None = None) -> int:
    """Of an alpha step along the path of the first candidates."""
    path = [0] * len(net.blocks)
    return bytes_for_backward(
        net,
        lambda: functional.cross_entropy(net(images, path, [a.softmax(0) for a in make_alphas(net)], among), labels),
    )


def test_stored_activations_do_not_grow_with_the_candidates(tiny: SearchSpace) -> None:
    """From 2 to 12 candidates of equal width by block: one path's bytes, against a dense mixture's many."""
    images, labels = torch.randn(8, 3, 8, 8), torch.arange(8) % tiny.classes
    counts = (2, 4, 6, 8, 10, 12)
    binarised, dense = [], []
    for count in counts:
        # Only the first kernel size runs; expand 2 everywhere keeps the candidates equally wide.
        space = replace(tiny, kernels=tuple(range(3, 3 + 2 * count, 2)), stages=tiny.stages[1:])
        net = SuperNet(space)
        binarised.append(binarised_bytes(net, images, labels))
        dense.append(dense_bytes(net, images, labels))
    assert max(binarised) < 1.15 * binarised[0]
    slopes = [(b - a) / 2 for a, b in pairwise(dense)]
    assert min(slopes) > 0.9 * max(slopes), "each candidate adds about the same bytes"
    assert dense[-1] > 3 * dense[0]
    assert dense[0] > binarised[0]


@pytest.mark.parametrize(("candidates", "at_most"), [("all", 1.2), ("two", 1.6)])
def test_an_alpha_step_of_seven_candidates_stores_hardly_more_than_training_the_largest_network(
    tiny: SearchSpace, candidates: str, at_most: float
) -> None:
    """Kernels 3, 5, 7 with expansions 6, 3, and skip; the path is that of the widest, as the largest network's is."""
    space = replace(tiny, kernels=(3, 5, 7), expands=(6, 3), stages=(Stage(8, 3, 1),))
    assert [len(block.candidates) for block in space.blocks] == [7, 7, 7]
    net, images, labels = SuperNet(space), torch.randn(8, 3, 8, 8), torch.arange(8) % tiny.classes
    # Weights of one path learn as a network by itself does.
    training = bytes_for_backward(net, lambda: functional.cross_entropy(net(images, [0, 0, 0]), labels))
    among = None if candidates == "all" else [[0, 4], [1, 0], [0, 6]]
    found = binarised_bytes(net, images, labels, among)
    assert found <= at_most * training
    assert dense_bytes(net, images, labels) > 3 * training, "what it would be otherwise"
