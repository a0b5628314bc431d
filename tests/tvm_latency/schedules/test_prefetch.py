"""Prefetches change no result, and ask for every line of the weights that are read next."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import tirx
from tvm.s_tir import SBlockRealize

from targets.registry import get_target
from targets.target import Target
from tvm_latency.opspec import WEIGHT_BYTES
from tvm_latency.schedules.depthwise import depthwise, tile_of
from tvm_latency.schedules.kernel import ConvSpec, Kernel, pack_bias
from tvm_latency.schedules.pointwise import pointwise, share_of
from tvm_latency.schedules.prefetch import AHEAD_ONCE, LINE_BYTES
from tvm_latency.schedules.threads import split_of
from tvm_latency.schedules.tiles import Tile, matmul_tile

pytestmark = pytest.mark.compiles

V3 = replace(get_target("x86-64-v3"), l1d_bytes=32 << 10)
NEON = replace(get_target("android-arm64"), l1d_bytes=32 << 10)
MACHINES = [V3, replace(V3, threads=2), replace(V3, vector_bits=512, vector_registers=32), NEON]


def scheduled(spec: ConvSpec, target: Target) -> Kernel:
    kernel = pointwise(spec, target)
    assert kernel is not None
    return kernel


def tile_of_product(spec: ConvSpec, target: Target) -> Tile:
    product = share_of(spec, split_of(spec, target.threads), target)
    return matmul_tile(product, target.lanes, target.vector_registers)


Index = np.ndarray
ARITHMETIC: dict[type, Callable[[Index, Index], Index]] = {
    tirx.LT: np.less,
    tirx.GE: np.greater_equal,
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
    if isinstance(expr, tirx.Not):
        return ~value(expr.a, where)
    if isinstance(expr, tirx.Cast):
        return value(expr.value, where)
    result = ARITHMETIC[type(expr)](value(expr.a, where), value(expr.b, where))
    if result.dtype != bool:
        assert result.max() <= np.iinfo(str(expr.ty.dtype)).max, f"an {expr.ty.dtype} overflows"
    return result


@dataclass(frozen=True)
class Prefetch:
    """The loops and conditions around it, and its offset into the weights in bytes."""

    loops: tuple[Any, ...]
    conditions: tuple[Any, ...]
    offset: Any

    def asked(self) -> tuple[dict[Any, Index], Index]:
        """The loop variables and the offset, for every time that it is executed."""
        extents = [int(loop.extent) for loop in self.loops]
        grid = np.unravel_index(np.arange(np.prod(extents)), extents)
        where = {loop.loop_var: index for loop, index in zip(self.loops, grid)}
        executed = np.ones(grid[0].shape, bool)
        for condition in self.conditions:
            executed &= value(condition, where).astype(bool)
        offsets = np.broadcast_to(value(self.offset, where), executed.shape)
        return {var: index[executed] for var, index in where.items()}, offsets[executed]


def prefetches(node: Any, loops: tuple[Any, ...] = (), conditions: tuple[Any, ...] = ()) -> Iterator[Prefetch]:
    """Each prefetch of a function's body."""
    if isinstance(node, tirx.SeqStmt):
        for statement in node.seq:
            yield from prefetches(statement, loops, conditions)
    elif isinstance(node, SBlockRealize):
        yield from prefetches(node.block.body, loops, conditions)
    elif isinstance(node, tirx.For):
        yield from prefetches(node.body, (*loops, node), conditions)
    elif isinstance(node, tirx.IfThenElse):
        yield from prefetches(node.then_case, loops, (*conditions, node.condition))
        if node.else_case is not None:
            yield from prefetches(node.else_case, loops, (*conditions, tirx.Not(node.condition)))
    elif isinstance(node, tirx.Evaluate) and "llvm.prefetch" in str(node):
        address = next(a for a in node.value.args if isinstance(a, tvm.ir.Call))
        yield Prefetch(loops, conditions, address.args[1])


def test_the_last_offset_of_a_batch_does_not_overflow() -> None:
    spec = ConvSpec(batch=4, height=28, width=28, in_channels=512, out_channels=512)
    for prefetch in prefetches(scheduled(spec, V3).func.body):
        last = {loop.loop_var: np.array(int(loop.extent) - 1) for loop in prefetch.loops}
        assert value(prefetch.offset, last) > 0


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


def lines_fetched(found: list[Prefetch], loop: int, panels: int) -> list[set[int]]:
    """The offsets of the lines that are asked for while each panel is used, which that loop counts."""
    fetched: list[set[int]] = [set() for _ in range(panels)]
    for prefetch in found:
        variables, offsets = prefetch.asked()
        panel = variables[prefetch.loops[loop].loop_var]
        for number in range(panels):
            fetched[number] |= set((offsets[panel == number] // LINE_BYTES * LINE_BYTES).tolist())
    return fetched


@pytest.mark.parametrize("size", [7, 14])
@pytest.mark.parametrize("taps", [3, 7])
def test_a_depthwise_kernel_fetches_the_taps_of_its_next_channels(size: int, taps: int) -> None:
    image = ConvSpec(batch=1, height=size, width=size, in_channels=256, out_channels=256, groups=256)
    spec = replace(image, kernel=(taps, taps), padding=taps // 2)
    kernel, tile = depthwise(spec, V3), tile_of(spec, V3)
    assert kernel is not None
    blocks = tile.blocks(256)
    block_bytes = taps * taps * tile.columns * 4
    for number, lines in enumerate(lines_fetched(list(prefetches(kernel.func.body)), 0, blocks)):
        start = (number + 1) * block_bytes
        assert set(range(start, start + block_bytes, LINE_BYTES)) <= lines
        assert min(lines) >= start
        assert max(lines) < start + block_bytes + size + LINE_BYTES


@settings(max_examples=40)
@given(products(), st.sampled_from(MACHINES))
def test_every_line_of_the_next_panel_is_fetched_while_one_is_used(spec: ConvSpec, target: Target) -> None:
    kernel = scheduled(spec, target)
    tile, k = tile_of_product(spec, target), spec.in_channels
    panels = tile.blocks(spec.out_channels)
    panel_bytes = k * tile.columns * WEIGHT_BYTES[spec.weights]
    assert panel_bytes % LINE_BYTES == 0
    found = list(prefetches(kernel.func.body))
    if panels * panel_bytes <= target.l1d_bytes // 2:
        assert not found
        return
    split = split_of(spec, target.threads)
    bands = split.threads if split.axis == "pixels" else 1
    pixels = split.share(spec.out_pixels, "pixels")
    ahead = panel_bytes if pixels > tile.rows else AHEAD_ONCE
    fetched = lines_fetched(found, 1 if bands > 1 else 0, panels)
    steps = k * -(-pixels // tile.rows)
    for number, lines in enumerate(fetched):
        start = number * panel_bytes + ahead
        assert set(range(start, start + panel_bytes, LINE_BYTES)) <= lines
        # A step fetches a whole number of bytes, so the last ones reach beyond the panel.
        assert max(lines) < start + panel_bytes + steps + LINE_BYTES
        assert min(lines) >= start


@pytest.mark.parametrize(("channels", "any_at_all"), [(64, False), (80, True)])
def test_weights_that_fit_half_the_first_cache_are_not_fetched_ahead(channels: int, any_at_all: bool) -> None:
    spec = ConvSpec(batch=1, height=7, width=7, in_channels=64, out_channels=channels)
    kernel, tile = scheduled(spec, V3), tile_of_product(spec, V3)
    assert tile.blocks(channels) * tile.columns == channels
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
    monkeypatch.setattr(sys.modules["tvm_latency.schedules.pointwise"], "prefetch_weights", lambda *_, **__: None)
    plain = scheduled(spec, target)
    random = np.random.default_rng(0)
    draw = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    weights = plain.packs[0](draw(spec.out_channels, spec.in_channels, 1, 1))
    arguments = [draw(spec.out_pixels, spec.in_channels), weights, pack_bias(draw(spec.out_channels), "float32")]
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
