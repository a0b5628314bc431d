"""Which matched convolutions one kernel can compute together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tvm
from tvm import relax
from tvm.relax.analysis import free_vars

from tvm_latency.match import Match, read_group
from tvm_latency.opspec import WeightType
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Spec, with_weights

Chain = tuple[Match, ...]


def chain_matches(module: Any, weights: WeightType, taken: Callable[[Spec], bool]) -> dict[Any, Chain]:
    """For each result of a group in `main`: the matches that its kernel computes, in order.

    A chain of several is an inverted residual whose inner tensors nothing else reads and which `taken` says a kernel
    kind takes; the chains of its inner results are empty.
    """
    main = module["main"]
    bindings = [binding for block in main.body.blocks for binding in block.bindings]
    calls = {b.var: b.value for b in bindings if _is_group(module, b.value)}
    matches = {var: _match(module, call, weights) for var, call in calls.items()}
    readers = Counter(a for value in [*(b.value for b in bindings), main.body.body] for a in free_vars(value))

    def before(var: Any) -> Any:
        """What a match reads, where that is the result of another that nothing else reads, and no chain's end yet."""
        if var is None or matches[var].input not in matches:
            return None
        source, residual = matches[var].input, matches[var].residual
        alone = readers[source] == 1 and not (residual is not None and residual.same_as(source))
        return source if alone and len(chains[source]) == 1 else None

    chains: dict[Any, Chain] = {var: (match,) for var, match in matches.items()}
    for var in matches:
        depthwise = before(var)
        for inside in ((before(depthwise), depthwise), (depthwise,)):
            if any(v is None for v in inside):
                continue
            chain = tuple(matches[v] for v in (*inside, var))
            block = inverted_residual(chain)
            if block is not None and taken(block):
                chains |= {var: chain, **dict.fromkeys(inside, ())}
                break
    return chains


def kernel_spec(chain: Chain) -> Spec:
    """What the kernel of a chain is asked for."""
    block = inverted_residual(chain)
    return chain[0].spec if block is None else block


def inverted_residual(chain: Chain) -> BlockSpec | None:
    """The block that these matches make up, each reading the one before; None if they make up none."""
    specs = [match.spec for match in chain if isinstance(match.spec, ConvSpec)]
    if len(specs) != len(chain) or not 2 <= len(specs) <= 3:
        return None
    *expand, depthwise, project = specs
    channels = {depthwise.groups, depthwise.in_channels, depthwise.out_channels}
    shapes = len(channels) == 1 and depthwise.groups > 1 and project.pointwise and all(e.pointwise for e in expand)
    if not shapes or any(spec.residual for spec in specs[:-1]):
        return None
    return BlockSpec(expand=expand[0] if expand else None, depthwise=depthwise, project=project)


def _is_group(module: Any, value: Any) -> bool:
    called = isinstance(value, relax.Call) and isinstance(value.op, tvm.ir.GlobalVar)
    return called and "Composite" in (module[value.op].attrs or {})


def _match(module: Any, call: Any, weights: WeightType) -> Match:
    match = read_group(module[call.op], call.args)
    return replace(match, spec=with_weights(match.spec, weights))
