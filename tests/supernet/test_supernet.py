from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from supernet.costs import PathCosts
from supernet.distribution import PathDistribution
from supernet.network import MBConv
from supernet.penalties import TargetPenalty
from supernet.presets import DIGITS
from supernet.space import SearchSpace
from supernet.supernet import SuperNet


def test_logits_have_one_value_for_each_class(tiny: SearchSpace) -> None:
    net = SuperNet(tiny)
    assert net(torch.rand(4, 3, 8, 8), [2, 0, 2]).shape == (4, tiny.classes)


def test_the_supernet_has_the_parameters_of_every_operator_and_no_other() -> None:
    net = SuperNet(DIGITS)
    blocks = [block.op_spec(choice) for block in DIGITS.blocks for choice in block.candidates]
    expected = sum(op.params for op in DIGITS.fixed_ops()) + sum(op.params for op in blocks if op is not None)
    assert sum(weight.numel() for weight in net.parameters()) == expected


def test_a_weight_step_leaves_the_unsampled_candidates_alone(tiny: SearchSpace) -> None:
    net = SuperNet(tiny)
    net(torch.rand(4, 3, 8, 8), [0, 1, 2]).square().sum().backward()
    for block, chosen in zip(net.blocks, [0, 1, 2]):
        for k, candidate in enumerate(block.candidates):
            if isinstance(candidate, MBConv):
                assert all((p.grad is not None) == (k == chosen) for p in candidate.parameters())


def test_a_path_too_short_is_refused(tiny: SearchSpace) -> None:
    with pytest.raises(ValueError, match="shorter"):
        SuperNet(tiny)(torch.rand(1, 3, 8, 8), [0, 0])


def test_pruning_gives_up_weights_and_leaves_the_other_paths_as_they_were(tiny: SearchSpace) -> None:
    torch.manual_seed(0)
    net, images = SuperNet(tiny), torch.rand(4, 3, 8, 8)
    before, weights = net(images, [0, 1, 2]), sum(p.numel() for p in net.parameters())
    given_up = [block.op_spec(block.candidates[k]) for block, k in ((tiny.blocks[0], 1), (tiny.blocks[2], 0))]
    net.prune([(0, 1), (2, 0)])
    assert torch.equal(net(images, [0, 1, 2]), before)
    assert sum(p.numel() for p in net.parameters()) == weights - sum(op.params for op in given_up if op is not None)
    assert [block.alive() for block in net.blocks] == [[0, 2], [0, 1], [1, 2]]
    with pytest.raises(NotImplementedError, match="_Pruned"):
        net(images, [1, 1, 2])


@pytest.mark.parametrize("budget_s", [1e-5, 1.0], ids=["over budget", "under budget"])
@pytest.mark.parametrize("path", [[2, 0, 2], [0, 1, 2], [1, 0, 1]], ids=["skips", "one skip", "no skip"])
def test_every_block_gets_both_gradients_whichever_path_is_sampled(
    tiny: SearchSpace, tiny_latency: PathCosts, path: list[int], budget_s: float
) -> None:
    """The released code of the paper gives a block whose skip is sampled no gradient at all."""
    torch.manual_seed(0)
    net = SuperNet(tiny).double()
    distribution = PathDistribution([len(block.candidates) for block in tiny.blocks]).double()
    with torch.no_grad():
        for weight in net.parameters():
            weight.normal_()
    probabilities = distribution.probabilities()
    expected = tiny_latency.expected(probabilities)
    term = TargetPenalty(damping=1.0, rate=0.1).term(expected, budget_s)
    alphas = list(distribution.alphas)
    for grad in torch.autograd.grad(term, alphas, retain_graph=True):
        # d log(E) is at least (1 / 4) / 4.5, that of the block of two candidates; E is 4.5 budgets or less than 1e-4.
        assert grad.abs().max() > 0.05 * abs(torch.log(expected / budget_s).item())
    images, labels = torch.randn(6, 3, 8, 8, dtype=torch.float64), torch.arange(6) % tiny.classes
    loss = functional.cross_entropy(net(images, path, probabilities), labels)
    for grad in torch.autograd.grad(loss, alphas):
        assert grad.abs().max() > 1e-4
        assert abs(grad.sum()) < 1e-12
