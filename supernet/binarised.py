"""Binarised paths (ProxylessNAS, arXiv 1812.00332, section 3.2): one path runs, yet every candidate gets a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.network import MBConv
from supernet.space import SpaceBlock

_Module = TypeVar("_Module", bound=nn.Module)


class _GateGradient(torch.autograd.Function):
    """The identity on `output`, whose backward also gives the gates their gradient dL/dg_k = <o_k(x), dL/dy>.

    The candidates that did not run are run there, one after the other and without a graph, so that the activations of
    one path are all that is ever stored. Gates of candidates outside `among` get none.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        output: Tensor,
        gates: Tensor,
        candidates: Sequence[nn.Module],
        chosen: int,
        among: Sequence[int],
    ) -> Tensor:
        ctx.save_for_backward(x, output)
        ctx.candidates, ctx.chosen, ctx.among, ctx.gates = candidates, chosen, among, gates
        # Outside of `forward` backward would run the candidates in float32.
        ctx.autocast = torch.is_autocast_enabled(x.device.type), torch.get_autocast_dtype(x.device.type)
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, output = ctx.saved_tensors
        (grad,) = grad_outputs
        enabled, dtype = ctx.autocast
        gate_grads = torch.zeros_like(ctx.gates)
        with torch.no_grad(), torch.autocast(x.device.type, dtype=dtype, enabled=enabled):
            for k in ctx.among:
                o_k = output if k == ctx.chosen else ctx.candidates[k](x)
                gate_grads[k] = (o_k * grad).sum(dtype=gate_grads.dtype)
        return None, grad, gate_grads, None, None, None


class BinarisedBlock(nn.Module):
    """One searched block: as many modules as candidates, of which one runs.

    Batch norm keeps no running statistics: they would average over networks that never exist, and running the other
    candidates in backward must leave no trace.
    """

    def __init__(self, block: SpaceBlock) -> None:
        super().__init__()
        ops = [block.op_spec(choice) for choice in block.candidates]
        self.candidates = nn.ModuleList(
            nn.Identity() if op is None else MBConv(op, running_statistics=False) for op in ops
        )

    @torch.no_grad()
    def agree(self) -> None:
        """Make the candidates start alike: one set of 1x1 weights, one small kernel with zeros around it.

        What follows a block then meets nearly the same features whichever candidate runs, where independent weights
        would give it as many unrelated inputs as there are paths. Residual branches start at zero (arXiv 1706.02677,
        section 5.1), so a skip changes nothing at first. Without both, a search of a few hundred steps is over before
        its weights can tell one candidate from another.
        """
        blocks = [candidate for candidate in self.candidates if isinstance(candidate, MBConv)]
        if not blocks:
            return
        source = min(blocks, key=lambda block: (block.op.kernel, -block.op.expand))
        for block in blocks:
            for conv, source_conv in zip(reversed(_all(nn.Conv2d, block)), reversed(_all(nn.Conv2d, source))):
                _copy_centre(source_conv.weight, conv.weight)
            if block.op.residual:
                nn.init.zeros_(_all(nn.BatchNorm2d, block)[-1].weight)

    def forward(
        self, x: Tensor, chosen: int, gates: Tensor | None = None, among: Sequence[int] | None = None
    ) -> Tensor:
        """The output of the chosen candidate.

        Args:
            x: [B, in, H, W].
            chosen: which candidate runs.
            gates: [candidates]. Their values are not used: the gate is one for the chosen candidate and zero for the
                others. In backward they receive dL/dg; where they are softmax(alpha), autograd carries it on to
                dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i), the paper's equation 4.
            among: the candidates whose gates receive a gradient; all that are left unless given.
        """
        output = cast(Tensor, self.candidates[chosen](x))
        if gates is None:
            return output
        among = self.alive() if among is None else among
        gated = _GateGradient.apply(x, output, gates, self.candidates, chosen, among)  # type: ignore[no-untyped-call]
        return cast(Tensor, gated)

    def alive(self) -> list[int]:
        """The candidates that were not pruned."""
        return [k for k, candidate in enumerate(self.candidates) if not isinstance(candidate, _Pruned)]

    def prune(self, k: int) -> None:
        """Give up candidate `k` and the memory of its weights; the others keep their numbers."""
        self.candidates[k] = _Pruned()


class _Pruned(nn.Module):
    """Where a candidate was; it does not run."""


def _all(kind: type[_Module], block: nn.Module) -> list[_Module]:
    return [module for module in block.modules() if isinstance(module, kind)]


def _copy_centre(source: Tensor, weight: Tensor) -> None:
    """Fill weight [N, M, k, k] from source [>= N, >= M, s, s], s <= k, with zeros around it."""
    margin = (weight.shape[-1] - source.shape[-1]) // 2
    weight.copy_(functional.pad(source[: weight.shape[0], : weight.shape[1]], [margin] * 4))
