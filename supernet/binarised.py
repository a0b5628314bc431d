"""Binarised paths (ProxylessNAS, arXiv 1812.00332, section 3.2): one path runs, yet every candidate gets a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from supernet.network import MBConv
from supernet.space import SpaceBlock


class _GateGradient(torch.autograd.Function):
    """The identity on `output`, whose backward also gives the gates their gradient dL/dg_k = <o_k(x), dL/dy>.

    The candidates that did not run are run there, one after the other and without a graph, so that the activations of
    one path are all that is ever stored.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, output: Tensor, gates: Tensor, candidates: Sequence[nn.Module], chosen: int
    ) -> Tensor:
        ctx.save_for_backward(x, output)
        ctx.candidates, ctx.chosen = candidates, chosen
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, output = ctx.saved_tensors
        (grad,) = grad_outputs
        outputs = (output if k == ctx.chosen else candidate(x) for k, candidate in enumerate(ctx.candidates))
        with torch.no_grad():
            gate_grad = torch.stack([(o * grad).sum() for o in outputs])
        return None, grad, gate_grad, None, None


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

    def forward(self, x: Tensor, chosen: int, gates: Tensor | None = None) -> Tensor:
        """The output of the chosen candidate.

        Args:
            x: [B, in, H, W].
            chosen: which candidate runs.
            gates: [candidates]. Their values are not used: the gate is one for the chosen candidate and zero for the
                others. In backward they receive dL/dg; where they are softmax(alpha), autograd carries it on to
                dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i), the paper's equation 4.
        """
        output = cast(Tensor, self.candidates[chosen](x))
        if gates is None:
            return output
        gated = _GateGradient.apply(x, output, gates, self.candidates, chosen)  # type: ignore[no-untyped-call]
        return cast(Tensor, gated)
