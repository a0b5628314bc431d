from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from supernet.latency import PULL, LatencyConstraint, PathLatency
from supernet.network import MBConv
from supernet.space import DIGITS, SearchSpace
from supernet.supernet import SuperNet


def test_logits_have_one_value_for_each_class(tiny: SearchSpace) -> None:
    net = SuperNet(tiny)
    assert net(torch.rand(4, 3, 8, 8), [2, 0, 2]).shape == (4, tiny.classes)


def test_the_supernet_has_the_parameters_of_every_operator() -> None:
    net = SuperNet(DIGITS)
    blocks = [block.op_spec(choice) for block in DIGITS.blocks for choice in block.candidates]
    expected = sum(op.params for op in DIGITS.fixed_ops()) + sum(op.params for op in blocks if op is not None)
    assert sum(weight.numel() for weight in net.weights()) == expected


def test_weights_and_alphas_are_apart(tiny: SearchSpace) -> None:
    net = SuperNet(tiny)
    assert {id(p) for p in net.weights()} | {id(p) for p in net.alphas} == {id(p) for p in net.parameters()}
    assert not {id(p) for p in net.weights()} & {id(p) for p in net.alphas}


def test_a_weight_step_leaves_the_alphas_and_the_unsampled_candidates_alone(tiny: SearchSpace) -> None:
    net = SuperNet(tiny)
    net(torch.rand(4, 3, 8, 8), [0, 1, 2]).square().sum().backward()
    assert all(alpha.grad is None for alpha in net.alphas)
    for block, chosen in zip(net.blocks, [0, 1, 2]):
        for k, candidate in enumerate(block.candidates):
            if isinstance(candidate, MBConv):
                assert all((p.grad is not None) == (k == chosen) for p in candidate.parameters())


def test_a_path_too_short_is_refused(tiny: SearchSpace) -> None:
    with pytest.raises(ValueError, match="shorter"):
        SuperNet(tiny)(torch.rand(1, 3, 8, 8), [0, 0])


def test_every_path_is_equally_likely_at_first(tiny: SearchSpace) -> None:
    for p, block in zip(SuperNet(tiny).probabilities(), tiny.blocks, strict=True):
        torch.testing.assert_close(p, torch.full((len(block.candidates),), 1 / len(block.candidates)))


def test_samples_follow_the_probabilities_and_the_generator(tiny: SearchSpace) -> None:
    net, draws = SuperNet(tiny), 2000
    with torch.no_grad():
        net.alphas[0].copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    generator = torch.Generator().manual_seed(0)
    paths = [net.sample(generator) for _ in range(draws)]
    share = sum(path[0] == 0 for path in paths) / draws
    assert abs(share - 0.7) < 4 * (0.7 * 0.3 / draws) ** 0.5
    again = torch.Generator().manual_seed(0)
    assert [net.sample(again) for _ in range(9)] == paths[:9]
    assert net.most_probable()[0] == 0


@pytest.mark.parametrize("budget_s", [1e-5, 1.0], ids=["over budget", "under budget"])
@pytest.mark.parametrize("path", [[2, 0, 2], [0, 1, 2], [1, 0, 1]], ids=["skips", "one skip", "no skip"])
def test_every_block_gets_both_gradients_whichever_path_is_sampled(
    tiny: SearchSpace, tiny_latency: PathLatency, path: list[int], budget_s: float
) -> None:
    """The released code of the paper gives a block whose skip is sampled no gradient at all."""
    torch.manual_seed(0)
    net = SuperNet(tiny).double()
    with torch.no_grad():
        for weight in net.weights():
            weight.normal_()
    probabilities = net.probabilities()
    constraint = LatencyConstraint(budget_s, damping=1.0, rate=0.1)
    penalty = constraint.penalty(tiny_latency.expected_s(probabilities))
    for grad in torch.autograd.grad(penalty, list(net.alphas), retain_graph=True):
        # d log(E) is at least (1 / 4) / 4.5, that of the block of two candidates.
        assert grad.abs().max() > 0.05 * PULL
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % tiny.classes
    loss = functional.cross_entropy(net(images, path, probabilities), labels)
    for grad in torch.autograd.grad(loss, list(net.alphas)):
        assert grad.abs().max() > 1e-4
        assert abs(grad.sum()) < 1e-12
