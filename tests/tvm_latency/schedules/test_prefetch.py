"""Prefetches change no result, and ask for every line of the weights that are read next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.s_tir import SBlockRealize

from targets.target import Target, get_target
from tvm_latency.opspec import WEIGHT_BYTES
from tvm_latency.schedules.kernel import ConvSpec, Kernel, pack_bias
from tvm_latency.schedules.pointwise import pointwise
from tvm_latency.schedules.prefetch import AHEAD_ONCE, LINE_BYTES

pytestmark = pytest.mark.compiles

V3 = replace(get_target("x86-64-v3"), l1d_bytes=32 << 10)
MACHINES = [V3, replace(V3, threads=2), replace(V3, vector_bits=512, vector_registers=32)]


def scheduled(spec: ConvSpec, target: Target) -> Kernel:
    kernel = pointwise(spec, target)
    assert kernel is not None
    return kernel


Index = np.ndarray
ARITHMETIC: dict[type, Callable[[Index, Index], Index]] = {
    tirx.Add: np.add,
    tirx.Sub: np.subtract,
    tirx.Mul: np.multiply,
    tirx.FloorDiv: np.floor_divide,
    tirx.FloorMod: np.mod,
    tirx.Div: np.floor_divide,  # of numbers that are not negative
}


def value(expr: Any, where: dict[Any, Index]) -> Index:
    """An index expression over all iterations at once."""
    if isinstance(expr, tirx.IntImm):
        return np.array(int(expr.value))
    if isinstance(expr, tirx.Var):
        return where[expr]
    if isinstance(expr, tirx.Cast):
        return value(expr.value, where)
    result = ARITHMETIC[type(expr)](value(expr.a, where), value(expr.b, where))
    assert result.max() <= np.iinfo(str(expr.ty.dtype)).max, f"an {expr.ty.dtype} overflows"
    return result


def test_the_last_offset_of_a_batch_does_not_overflow() -> None:
    spec = ConvSpec(batch=4, height=28, width=28, in_channels=512, out_channels=512)
    for loops, offset in prefetches(scheduled(spec, V3).func.body):
        assert value(offset, {loop.loop_var: np.array(int(loop.extent) - 1) for loop in loops}) > 0


def prefetches(node: Any, loops: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each prefetch as the loops around it and its offset into the weights, in bytes."""
    if isinstance(node, tirx.SeqStmt):
        for statement in node.seq:
            yield from prefetches(statement, loops)
    elif isinstance(node, SBlockRealize):
        yield from prefetches(node.block.body, loops)
    elif isinstance(node, tirx.For):
        yield from prefetches(node.body, (*loops, node))
    elif isinstance(node, tirx.Evaluate) and "llvm.prefetch" in str(node):
        address = next(a for a in node.value.args if isinstance(a, tvm.ir.Call))
        yield loops, address.args[1]


def offsets(kernel: Kernel) -> np.ndarray:
    """[steps, prefetches in each]: what is asked for, in the order in which one thread would ask."""
    found = list(prefetches(kernel.func.body))
    loops = found[0][0]
    assert all(a.same_as(b) for nest, _ in found for a, b in zip(nest, loops, strict=True))
    extents = [int(loop.extent) for loop in loops]
    grid = np.unravel_index(np.arange(np.prod(extents)), extents)
    where = {loop.loop_var: index for loop, index in zip(loops, grid)}
    return np.stack([np.broadcast_to(value(offset, where), grid[0].shape) for _, offset in found], axis=1)


@st.composite
def products(draw: st.DrawFn) -> ConvSpec:
    """Channels such that panels are whole lines, as in all networks whose channels are even."""
    return ConvSpec(
        batch=1,
        height=draw(st.integers(1, 14)),
        width=draw(st.integers(1, 14)),
        in_channels=8 * draw(st.integers(1, 40)),
        out_channels=8 * draw(st.integers(1, 40)),
        weights=draw(st.sampled_from(["float32", "float16"])),
    )


@settings(max_examples=40, deadline=None)
@given(products(), st.sampled_from(MACHINES))
def test_every_line_of_the_next_panel_is_fetched_while_one_is_used(spec: ConvSpec, target: Target) -> None:
    kernel = scheduled(spec, target)
    assume(kernel.tiles)  # else its channels are summed in pairs
    tile, k = kernel.tiles[0], spec.in_channels
    panels = tile.blocks(spec.out_channels)
    panel_bytes = k * tile.columns * WEIGHT_BYTES[spec.weights]
    assert panel_bytes % LINE_BYTES == 0
    if panels * panel_bytes <= target.l1d_bytes // 2:
        assert not list(prefetches(kernel.func.body))
        return
    found, uses = offsets(kernel), spec.out_pixels // tile.rows
    assert len(found) == panels * uses * k
    # In order, but for what the last steps of a panel fetch beyond it.
    assert np.all(np.diff(found[:, 0]) >= -uses * k)
    lines = np.arange(panel_bytes // LINE_BYTES) * LINE_BYTES
    ahead = panel_bytes if uses > 1 else AHEAD_ONCE
    for panel, asked in enumerate(found.reshape(panels, -1)):
        fetched = np.unique(asked // LINE_BYTES) * LINE_BYTES
        assert set(panel * panel_bytes + ahead + lines) <= set(fetched)
        # A step fetches a whole number of bytes, so the last ones reach beyond the panel.
        assert fetched.max() < panel * panel_bytes + ahead + panel_bytes + uses * k + LINE_BYTES


@pytest.mark.parametrize(("channels", "any_at_all"), [(64, False), (72, True)])
def test_weights_that_fit_half_the_first_cache_are_not_fetched_ahead(channels: int, any_at_all: bool) -> None:
    spec = ConvSpec(batch=1, height=7, width=7, in_channels=64, out_channels=channels)
    kernel = scheduled(spec, V3)
    assert kernel.tiles[0].blocks(channels) * kernel.tiles[0].columns == channels
    assert bool(list(prefetches(kernel.func.body))) == any_at_all


LARGE = ConvSpec(batch=1, height=14, width=14, in_channels=96, out_channels=200, residual=True, clip=(0.0, 6.0))


@pytest.mark.parametrize(
    "spec",
    [LARGE, replace(LARGE, weights="float16"), replace(LARGE, height=1, width=1, in_channels=320, residual=False)],
    ids=["pixels", "half weights", "linear"],
)
def test_prefetches_are_in_the_code_and_change_no_bit(spec: ConvSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    target = replace(get_target("x86"), l1d_bytes=32 << 10)
    fetching = scheduled(spec, target)
    assert fetching.func is not None, "made before the patch"
    monkeypatch.setattr(sys.modules["tvm_latency.schedules.pointwise"], "prefetch_weights", lambda func, *_, **__: func)
    plain = scheduled(spec, target)
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    weights = plain.packs[0](draw(spec.out_channels, spec.in_channels, 1, 1))
    arguments = [draw(spec.out_pixels, spec.in_channels), weights, pack_bias(draw(spec.out_channels))]
    arguments += [draw(spec.out_pixels, spec.out_channels)] if spec.residual else []
    answers = []
    for kernel, instructions in ((fetching, True), (plain, False)):
        module = tvm.IRModule({"main": kernel.func.with_attr("global_symbol", "main")})
        library = tvm.compile(module, target=tvm.target.Target(target.tvm_attributes()))
        assert ("\tprefetcht1\t" in library.mod.inspect_source("s")) == instructions
        tensors = [tvm.runtime.tensor(a) for a in arguments]
        tensors.append(tvm.runtime.tensor(np.full((spec.out_pixels, spec.out_channels), np.nan, np.float32)))
        library["main"](*tensors)
        answers.append(tensors[-1].numpy())
    assert np.isfinite(answers[0]).all()
    assert answers[0].tobytes() == answers[1].tobytes()
