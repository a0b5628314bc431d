"""Three convolutions in one kernel against PyTorch in float64, on shapes that Hypothesis picks.

Compiling takes most of the time, more than half a second for each shape, so an example is a list of them, compiled as
one module for each machine. A Hypothesis profile with ten times the examples tries 500 shapes.
"""

from __future__ import annotations

import itertools
import re
import sys
import zlib
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.target import Target, get_target
from tvm_latency.schedules import inverted_residual
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, FloatArray, Kernel

pytestmark = pytest.mark.compiles

SHAPES = settings().max_examples // 2
SHAPES_AT_ONCE = 25
MOST_MACS = 2_000_000
EPS = np.finfo(np.float32).eps
INFINITY = float("inf")


def machine(name: str, threads: int = 1) -> Target:
    """A target whose second cache is too small for any block."""
    return replace(get_target(name), threads=threads, l2_bytes=0)


MACHINES = [machine(name, threads) for name, threads in itertools.product(("x86", "x86-64-v3"), (1, 2))]
CLIPS = st.sampled_from([None, (0.0, 6.0), (0.0, INFINITY), (-INFINITY, 0.5), (-1.0, 1.0), (0.25, 0.25)])


@st.composite
def blocks(draw: Any) -> BlockSpec:
    kernel, stride = draw(st.sampled_from([3, 5, 7])), draw(st.sampled_from([1, 2]))
    padding = draw(st.sampled_from([0, kernel // 2]))
    sizes = st.integers(kernel - 2 * padding, 20) | st.sampled_from([7, 11, 13, 17, 19])
    # Whole vectors of every machine here; what is less has a test of its own.
    channels = 16 * draw(st.integers(1, 4) | st.integers(1, 12))
    depthwise = ConvSpec(
        batch=draw(st.integers(1, 3)),
        height=draw(sizes),
        width=draw(sizes),
        in_channels=channels,
        out_channels=channels,
        kernel=(kernel, kernel),
        stride=stride,
        padding=padding,
        groups=channels,
        clip=draw(CLIPS),
        weights=draw(st.sampled_from(["float32", "float16"])),
    )
    block = block_of(
        depthwise,
        expand_from=draw(st.none() | st.integers(1, 40)),
        out_channels=draw(st.integers(1, 48) | st.integers(1, 200)),
        clips=(draw(CLIPS), draw(CLIPS)),
        residual=draw(st.booleans()),
    )
    while block.macs > MOST_MACS:
        block = halved(block)
    return block


def block_of(
    depthwise: ConvSpec,
    expand_from: int | None,
    out_channels: int,
    clips: tuple[Any, Any] = (None, None),
    residual: bool = False,
) -> BlockSpec:
    d = depthwise
    expand = ConvSpec(
        batch=d.batch,
        height=d.height,
        width=d.width,
        in_channels=expand_from or 1,
        out_channels=d.in_channels,
        clip=clips[0],
        weights=d.weights,
    )
    project = replace(
        expand,
        height=d.out_height,
        width=d.out_width,
        in_channels=d.out_channels,
        out_channels=out_channels,
        clip=clips[1],
        residual=residual,
    )
    return BlockSpec(expand=expand if expand_from else None, depthwise=d, project=project)


def halved(block: BlockSpec) -> BlockSpec:
    """With fewer images, or fewer channels."""
    d, p, e = block.depthwise, block.project, block.expand
    channels = d.in_channels if d.batch > 1 else 16 * max(1, d.in_channels // 32)
    smaller = replace(d, batch=max(1, d.batch // 2), in_channels=channels, out_channels=channels, groups=channels)
    narrow = d.batch > 1 or d.in_channels > 16
    out = p.out_channels if narrow else p.out_channels // 2
    return block_of(smaller, e.in_channels if e else None, out, (e.clip if e else None, p.clip), p.residual)


def pixels(image: FloatArray) -> FloatArray:
    return np.ascontiguousarray(image.transpose(0, 2, 3, 1)).reshape(-1, image.shape[1])


def case(block: BlockSpec, kernel: Kernel) -> tuple[list[FloatArray], FloatArray, FloatArray]:
    """Random arguments, what to expect, and how far float32 may be from it.

    The bound: let M be what the block computes from the magnitudes of input, weights, biases and residual, without
    clips, except that a clip which cannot answer 0 raises M to what it answers nearest to 0. By induction |value| <= M
    after each convolution. A convolution of n additions rounds each product and sum by eps/2 of the magnitudes added up
    so far, which adds n eps/2 M to the error; and it passes on the error of its input, multiplied by the magnitudes of
    its weights: of A eps/2 M(input) at most A eps/2 M(output) is left. So after the block the error is at most the sum
    of all additions times eps/2 M, to first order; eps leaves room for the others. A clip brings nothing further apart.
    """
    random = np.random.default_rng(zlib.crc32(repr(block).encode()))
    draw = lambda *shape: random.standard_normal(shape, dtype=np.float32)  # noqa: E731
    first, last = block.convolutions[0], block.project
    x = draw(first.batch, first.in_channels, first.height, first.width)
    residual = draw(last.batch, last.out_channels, last.out_height, last.out_width)
    arguments, value, additions = [pixels(x)], torch.from_numpy(x).double(), 0
    magnitude = value.abs()
    for conv, pack in zip(block.convolutions, kernel.packs):
        weights, bias = draw(conv.out_channels, conv.in_channels // conv.groups, *conv.kernel), draw(conv.out_channels)
        arguments += [pack(weights), bias]
        w, b = torch.from_numpy(weights.astype(conv.weights)).double(), torch.from_numpy(bias).double()
        shape = {"stride": conv.stride, "padding": conv.padding, "groups": conv.groups}
        value = torch.nn.functional.conv2d(value, w, b, **shape)
        magnitude = torch.nn.functional.conv2d(magnitude, w.abs(), b.abs(), **shape)
        additions += weights[0].size + 2
        if conv.residual:
            value, magnitude = (value + torch.from_numpy(residual)), magnitude + abs(torch.from_numpy(residual))
        if conv.clip is not None:
            value, magnitude = value.clip(*conv.clip), magnitude.clip(min=max(conv.clip[0], -conv.clip[1], 0))
    arguments += [pixels(residual)] if last.residual else []
    return arguments, pixels(value.numpy()), pixels(additions * EPS * magnitude.numpy())


def right(library: Any, block: BlockSpec, kernel: Kernel) -> bool:
    arguments, expected, bound = case(block, kernel)
    tensors = [tvm.runtime.tensor(a) for a in [*arguments, np.full(expected.shape, np.nan, np.float32)]]
    library[kernel.name](*tensors)
    return bool(np.all(abs(tensors[-1].numpy() - expected) <= bound))  # NaN is not


def built(kernels: list[Kernel], target: Target) -> Any:
    functions = {kernel.name: kernel.func.with_attr("global_symbol", kernel.name) for kernel in kernels}
    return tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(target.tvm_attributes()))


def scheduled(block: BlockSpec, target: Target) -> Kernel:
    kernel = inverted_residual(block, target)
    assert kernel is not None
    return kernel


@pytest.fixture
def two_workers() -> Iterator[Executor]:
    """A thread whose pool of TVM workers has two of them, on a machine of one core too. All work is worth it."""
    module = sys.modules["tvm_latency.schedules.inverted_residual"]
    with ThreadPoolExecutor(1) as executor, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PARALLEL_MACS", 0)
        patch.setenv("TVM_NUM_THREADS", "2")
        assert executor.submit(tvm.runtime.num_threads).result() == 2
        yield executor


@pytest.mark.slow
def test_a_block_of_any_shape_is_right(two_workers: Executor) -> None:
    wrong: dict[tuple[BlockSpec, Target], bool] = {}  # what was tried already, so that shrinking compiles what is new

    def run(specs: list[BlockSpec], target: Target) -> None:
        kernels = [scheduled(spec, target) for spec in specs]
        library = built(kernels, target)
        wrong.update({(spec, target): not right(library, spec, kernel) for spec, kernel in zip(specs, kernels)})

    @settings(
        settings(), max_examples=-(-SHAPES // SHAPES_AT_ONCE), deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(st.lists(blocks(), min_size=SHAPES_AT_ONCE, max_size=SHAPES_AT_ONCE, unique=True))
    def check(specs: list[BlockSpec]) -> None:
        tried = list(zip(specs, itertools.cycle(MACHINES)))
        for target in MACHINES:
            if new := [spec for spec, where in tried if where == target and (spec, target) not in wrong]:
                two_workers.submit(run, new, target).result()
        failed = [f"{spec!r} on {where.name}, threads={where.threads}" for spec, where in tried if wrong[spec, where]]
        assert not failed, "wrong results of\n" + "\n".join(failed)

    check()
    assert len({spec for spec, _ in wrong}) >= SHAPES


SMALL = ConvSpec(
    batch=1, height=9, width=9, in_channels=48, out_channels=48, kernel=(3, 3), padding=1, groups=48, clip=(0.0, 6.0)
)
X86 = machine("x86-64-v3")


def test_one_block_is_right() -> None:
    for block in (block_of(SMALL, 12, 12, residual=True), block_of(replace(SMALL, stride=2), None, 40)):
        kernel = scheduled(block, X86)
        assert right(built([kernel], X86), block, kernel)


def is_taken(block: BlockSpec, target: Target) -> bool:
    return inverted_residual(block, target) is not None


@pytest.mark.parametrize(("channels", "name", "taken"), [(24, "x86-64-v3", True), (20, "x86-64-v3", False)])
def test_expanded_channels_fill_vectors(channels: int, name: str, taken: bool) -> None:
    depthwise = replace(SMALL, in_channels=channels, out_channels=channels, groups=channels)
    assert is_taken(block_of(depthwise, 8, 8), machine(name)) == taken


def test_the_expanded_image_is_larger_than_half_the_second_cache() -> None:
    block, expanded = block_of(SMALL, 12, 12), 9 * 9 * 48 * 4
    assert is_taken(block, replace(X86, l2_bytes=2 * expanded - 2))
    assert not is_taken(block, replace(X86, l2_bytes=2 * expanded))


def test_a_block_that_skips_rows_and_a_single_convolution_are_not_taken() -> None:
    assert not is_taken(block_of(replace(SMALL, kernel=(1, 1), padding=0, stride=2), 12, 12), X86)
    assert is_taken(block_of(replace(SMALL, kernel=(2, 2), padding=0, stride=2), 12, 12), X86)
    assert inverted_residual(SMALL, X86) is None


def test_what_stays_in_the_cache_are_rows_and_not_the_image() -> None:
    """Output rows by fours: with a 5x5 kernel they need eight expanded rows, at both ends two more pixels."""
    block = block_of(replace(SMALL, height=56, width=56, kernel=(5, 5), padding=2), 12, 12)
    script = scheduled(block, X86).func.script()
    columns = int(re.search(r"expand_weights: T\.Buffer\(\(\d+, 12, (\d+)\)", script).group(1))
    shapes = [tuple(map(int, found.split(","))) for found in re.findall(r"alloc_buffer\(\(([\d, ]+)\)", script)]
    assert shapes[:2] == [(-(-48 // columns), 8, 60, columns), (4 * 56, 48)]


@pytest.mark.parametrize(("size", "threads", "parallel"), [(56, 2, True), (56, 1, False), (9, 2, False)])
def test_threads_are_woken_for_much_work_alone(size: int, threads: int, parallel: bool) -> None:
    block = block_of(replace(SMALL, height=size, width=size), 12, 12)
    target = machine("x86-64-v3", threads)
    assert ("T.parallel(" in scheduled(block, target).func.script()) == parallel
