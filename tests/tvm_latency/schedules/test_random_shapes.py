"""Every kernel kind against PyTorch in float64, on at least 500 shapes that Hypothesis picks for each.

An example is a list of shapes, spread over all machines and compiled as one module for each: compiling takes the time.
`pytest --hypothesis-profile=thorough` tries ten times as many, others on every run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.target import Target
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Kernel, PoolSpec, Spec

pytestmark = [pytest.mark.compiles, pytest.mark.slow]

SHAPES = 500
SHAPES_AT_ONCE = 24
# PyTorch's float64 convolution, twice, takes a few hundredths of a second on what is below this.
MOST_MACS = 16_000_000
MOST_ELEMENTS = 1_500_000

CHANNELS = st.integers(1, 512) | st.integers(1, 40) | st.sampled_from([8, 16, 24, 32, 64, 96, 144, 256, 512])
SIZES = st.integers(1, 64)
BATCHES = st.integers(1, 8)
SIDES = st.sampled_from([1, 3, 5, 7])
WEIGHTS = st.sampled_from(["float32", "float32", "float16"])
INFINITY = float("inf")
CLIPS = st.sampled_from([None, (0.0, 6.0), (0.0, INFINITY), (-INFINITY, 0.5), (-1.0, 1.0), (0.25, 0.25)]) | st.tuples(
    st.floats(-4, 0, width=32), st.floats(0, 4, width=32)
)


@st.composite
def convolutions(draw: Any, sides: st.SearchStrategy[int], depthwise: bool = False) -> ConvSpec:
    """Any convolution of these kernels that PyTorch computes quickly, of one group or of one for each channel."""
    side = draw(sides)
    kernel = draw(st.just((side, side)) | st.tuples(sides, sides))
    channels = draw(CHANNELS.filter(lambda c: c > 1) if depthwise else CHANNELS)
    padding = 0 if kernel == (1, 1) and not draw(st.booleans()) else draw(st.integers(0, max(kernel) // 2))
    spec = ConvSpec(
        batch=draw(BATCHES),
        height=max(draw(SIZES), kernel[0] - 2 * padding),
        width=max(draw(SIZES), kernel[1] - 2 * padding),
        in_channels=channels,
        out_channels=channels if depthwise else draw(CHANNELS),
        kernel=kernel,
        stride=draw(st.sampled_from([1, 2])),
        padding=padding,
        groups=channels if depthwise else 1,
        clip=draw(CLIPS),
        residual=draw(st.booleans()),
        weights=draw(WEIGHTS),
    )
    return reduced(spec, keep_channels=draw(st.booleans()))


def reduced(spec: ConvSpec, keep_channels: bool) -> ConvSpec:
    """Halved, in its channels or in its pixels, until it is affordable."""

    def halved(spec: ConvSpec, names: tuple[str, ...]) -> ConvSpec:
        lowest = dict.fromkeys(names, 1) | {
            "height": max(1, spec.kernel[0] - 2 * spec.padding),
            "width": max(1, spec.kernel[1] - 2 * spec.padding),
        }
        return replace(spec, **{name: max(lowest[name], getattr(spec, name) // 2) for name in names})

    pixels, channels = ("batch", "height", "width"), ("in_channels", "out_channels")
    if spec.groups > 1:
        channels = (*channels, "groups")
    while not affordable(spec):
        smaller = halved(spec, pixels if keep_channels else channels)
        spec = smaller if smaller != spec else halved(spec, channels if keep_channels else pixels)
    return spec


def affordable(spec: ConvSpec) -> bool:
    elements = spec.batch * spec.height * spec.width * spec.in_channels + spec.out_pixels * spec.out_channels
    return spec.macs <= MOST_MACS and elements <= MOST_ELEMENTS


def room_for(spec: BlockSpec, target: Target) -> Target:
    """The machine with caches in which a block is fused: for the rows that an output row needs, and for all weights."""
    d = spec.depthwise
    row = 4 * d.in_channels * (d.kernel[0] * (d.width + 2 * d.padding) + d.out_width)
    weights = 4 * d.in_channels * (spec.project.out_channels + (spec.expand.in_channels if spec.expand else 0))
    return replace(target, l2_bytes=2 * row, l1d_bytes=max(target.l1d_bytes, 2 * weights))


@st.composite
def blocks(draw: Any) -> BlockSpec:
    """An inverted residual."""
    side, size = draw(SIDES), {"batch": draw(BATCHES), "weights": draw(WEIGHTS)}
    height, width, hidden = max(side, draw(SIZES)), draw(SIZES), draw(CHANNELS)
    depthwise = ConvSpec(
        **size,
        height=height,
        width=max(width, side),
        in_channels=hidden,
        out_channels=hidden,
        kernel=(side, side),
        stride=1 if side == 1 else draw(st.sampled_from([1, 2])),
        padding=draw(st.integers(0, side // 2)),
        groups=hidden,
        clip=draw(CLIPS),
    )
    while not affordable(depthwise):
        depthwise = replace(depthwise, batch=(depthwise.batch + 1) // 2, width=max(side, depthwise.width // 2))
    size["batch"] = depthwise.batch
    image = {"height": height, "width": depthwise.width, "out_channels": hidden, "clip": draw(CLIPS)}
    narrow = st.integers(1, 64)
    expand = ConvSpec(**size, **image, in_channels=draw(narrow)) if draw(st.booleans()) else None
    project = ConvSpec(
        **size,
        height=depthwise.out_height,
        width=depthwise.out_width,
        in_channels=hidden,
        out_channels=draw(narrow),
        clip=draw(CLIPS),
        residual=draw(st.booleans()),
    )
    return BlockSpec(expand=expand, depthwise=depthwise, project=project)


# What the kernels of a kind are called, and the shapes it is asked for. A new kind is a line here.
FEATURES = st.integers(1, 1280)
POINTWISE = ("pointwise_", "paired_pointwise_")
KINDS: dict[str, tuple[str | tuple[str, ...], st.SearchStrategy[Any]]] = {
    "pointwise": (POINTWISE, convolutions(st.just(1)).map(lambda spec: replace(spec, stride=1, padding=0))),
    # Its output channels are half vectors.
    "paired pointwise": (
        "paired_pointwise_",
        convolutions(st.just(1)).map(
            lambda c: replace(
                c, stride=1, padding=0, in_channels=2 * c.in_channels, out_channels=1 + c.out_channels % 3 * 2
            )
        ),
    ),
    "linear": (
        POINTWISE,
        st.builds(
            ConvSpec,
            batch=BATCHES,
            height=st.just(1),
            width=st.just(1),
            in_channels=FEATURES,
            out_channels=FEATURES,
            clip=CLIPS,
            residual=st.booleans(),
            weights=WEIGHTS,
        ),
    ),
    "depthwise": ("depthwise_", convolutions(SIDES, depthwise=True)),
    "dense": ("dense_conv_", convolutions(SIDES).filter(lambda spec: not spec.pointwise)),
    "inverted residual": ("inverted_residual_", blocks()),
    "mean pool": (
        "mean_pool_",
        st.builds(PoolSpec, batch=BATCHES, height=SIZES, width=SIZES, channels=CHANNELS).filter(
            lambda spec: spec.batch * spec.height * spec.width * spec.channels <= MOST_ELEMENTS
        ),
    ),
}


@pytest.fixture(scope="module")
def machines(x86_targets: list[Target]) -> list[Target]:
    halves = [target.with_dtype("float16") for target in x86_targets if target.float16 is not None]
    return [replace(target, threads=threads) for target in (*x86_targets, *halves) for threads in (1, 2)]


@pytest.fixture(scope="module")
def two_workers() -> Iterator[Executor]:
    """A thread whose pool of TVM workers has two of them, on a machine of one core too. TVM keeps one for a thread."""
    with ThreadPoolExecutor(1) as executor, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TVM_NUM_THREADS", "2")
        assert executor.submit(tvm.runtime.num_threads).result() == 2
        yield executor


def asked(kind: str, spec: Spec, target: Target) -> tuple[Spec, Target]:
    """What a shape stands for on a machine, for kinds that only some channels or caches suit."""
    if isinstance(spec, BlockSpec):
        target = room_for(spec, target)
    elif kind == "paired pointwise":
        spec = replace(spec, out_channels=spec.out_channels * target.lanes // 2)
    return spec, target


def scheduled(kind: str, spec: Spec, target: Target) -> Kernel:
    kernel = schedule_kernel(spec, target)
    assert kernel is not None, f"no kind takes {spec}"
    assert kernel.name.startswith(KINDS[kind][0]), f"{kernel.name} took {spec}"
    return kernel


def rights(kernels: list[Kernel], cases: list[Any], target: Target) -> list[bool]:
    """Whether each kernel is right, compiled with the others."""
    functions = {f"k{i}": kernel.func.with_attr("global_symbol", f"k{i}") for i, kernel in enumerate(kernels)}
    library = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(target.tvm_attributes()))
    found = []
    for name, case in zip(functions, cases):
        tensors = [tvm.runtime.tensor(a) for a in [*case.arguments, case.empty_output()]]
        library[name](*tensors)
        found.append(case.accepts(tensors[-1].numpy()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_of_any_shape_is_right(
    kind: str, make_case: Callable[[Spec, Kernel], Any], machines: list[Target], two_workers: Executor
) -> None:
    # What was tried already, so that shrinking compiles what is new: empty if right, else a line that names it.
    wrong: dict[tuple[Spec, Target], str] = {}

    def try_out(shapes: list[Spec], target: Target) -> None:
        specs = [asked(kind, shape, target) for shape in shapes]
        kernels = [scheduled(kind, *spec) for spec in specs]
        cases = [make_case(spec, kernel) for (spec, _), kernel in zip(specs, kernels)]
        for shape, (spec, machine), right in zip(shapes, specs, rights(kernels, cases, target)):
            line = f"{spec!r} on {machine.name}, {machine.dtype}, threads={machine.threads}, l2={machine.l2_bytes}"
            wrong[shape, target] = "" if right else line

    @settings(
        settings(),
        max_examples=(SHAPES // SHAPES_AT_ONCE + 3) * settings().max_examples // 100,
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.lists(
            KINDS[kind][1],
            min_size=SHAPES_AT_ONCE,
            max_size=SHAPES_AT_ONCE,
            unique=True,
        )
    )
    def check(shapes: list[Spec]) -> None:
        tried = list(zip(shapes, itertools.cycle(machines)))
        for target in machines:
            if new := [shape for shape, where in tried if where == target and (shape, target) not in wrong]:
                two_workers.submit(try_out, new, target).result()
        failed = [wrong[entry] for entry in tried if wrong[entry]]
        assert not failed, "wrong results of\n" + "\n".join(failed)

    check()
    assert len({spec for spec, _ in wrong}) >= SHAPES
