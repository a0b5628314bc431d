"""Variations are operators like those of a space, and none of them."""

from __future__ import annotations

from random import Random

import pytest

from supernet.presets import PRESETS
from tvm_latency.plan import NARROWEST, WIDEST, variations


@pytest.mark.parametrize("name", [*PRESETS])
def test_variations_are_new_distinct_and_of_the_same_kinds(name: str) -> None:
    ops = PRESETS[name].op_specs()
    found = variations(ops, 80, Random(0))
    assert len(set(found)) == 80
    assert not set(found) & set(ops)
    assert found == variations(ops, 80, Random(0))
    assert found != variations(ops, 80, Random(1))
    sizes = {(op.kind, op.height, op.stride) for op in ops}
    assert {(op.kind, op.height, op.stride) for op in found} <= sizes
    assert {op.in_channels for op in found if op.kind == "conv" and op.kernel > 1} == {3}
    widest = max(op.in_channels for op in ops)
    assert max(op.in_channels for op in found) <= WIDEST * widest + 4
    assert min(op.in_channels for op in found) >= min(3, int(NARROWEST * min(op.in_channels for op in ops)))
    assert any(op.residual for op in found)


def test_none_is_none() -> None:
    assert variations(PRESETS["digits"].op_specs(), 0, Random(0)) == ()
