"""What kernels do beside computing the right thing, and which kind schedules what."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import pytest
import tvm

from targets.registry import get_target
from targets.target import Target
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.dense_conv import dense_split
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Kernel, PoolSpec, Spec
from tvm_latency.schedules.threads import split_of
from tvm_latency.schedules.tiles import HEAP_BYTES

pytestmark = pytest.mark.compiles

MakeCase = Callable[[Spec, Kernel], Any]


def assert_right(kernel: Kernel, target: Target, case: Any) -> None:
    module = tvm.IRModule({"main": kernel.func.with_attr("global_symbol", "main")})
    library = tvm.compile(module, target=tvm.target.Target(target.tvm_attributes()))
    tensors = [tvm.runtime.tensor(a) for a in [*case.arguments, case.empty_output()]]
    library["main"](*tensors)
    assert case.accepts(tensors[-1].numpy())


LARGE = ConvSpec(batch=2, height=28, width=28, in_channels=64, out_channels=64, residual=True)


SMALL = ConvSpec(batch=1, height=7, width=7, in_channels=320, out_channels=160, clip=(0.0, 6.0))
DEPTHWISE = replace(SMALL, in_channels=960, out_channels=960, groups=960, kernel=(7, 7), padding=3)


LINEAR = ConvSpec(batch=1, height=1, width=1, in_channels=640, out_channels=1000)
BANDS = [
    LARGE,
    replace(LARGE, height=27, width=29, batch=1),  # no number of threads divides its pixels
    replace(LARGE, out_channels=24),
    SMALL,
    replace(SMALL, weights="float16"),
    replace(SMALL, out_channels=40, in_channels=640),
    replace(DEPTHWISE, kernel=(3, 3), padding=1),
    replace(LARGE, kernel=(5, 5), padding=2, groups=64),
]
DENSE_BANDS = [
    replace(LARGE, kernel=(3, 3), padding=1, stride=2),
    ConvSpec(batch=1, height=65, width=65, in_channels=3, out_channels=40, kernel=(3, 3), stride=2, padding=1),
]
CHANNELS = [
    LINEAR,
    replace(LINEAR, out_channels=1001, weights="float16"),
    replace(LINEAR, batch=4),
    DEPTHWISE,
    replace(DEPTHWISE, in_channels=968, out_channels=968, groups=968),  # the last block is narrower
    replace(LARGE, height=1, width=4096, batch=1, groups=64, kernel=(1, 9), padding=0),
]
MANY_WEIGHTS = ConvSpec(batch=1, height=7, width=7, in_channels=256, out_channels=300, kernel=(3, 3), padding=1)


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("spec", [*BANDS, *DENSE_BANDS, *CHANNELS, MANY_WEIGHTS], ids=lambda spec: spec.suffix)
def test_threads_share_the_work_and_not_the_result(spec: ConvSpec, threads: int, make_case: MakeCase) -> None:
    target = replace(get_target("x86"), threads=threads)
    kernel = schedule_kernel(spec, target)
    assert kernel is not None
    assert "T.parallel(" in kernel.func.script()
    assert_right(kernel, target, make_case(spec, kernel))


def test_threads_share_rows_as_far_as_there_are_some() -> None:
    target = replace(get_target("x86-64-v4"), threads=2, l2_bytes=1 << 20)
    assert {split_of(spec, 2).axis for spec in BANDS} == {"pixels"}
    assert {split_of(spec, 2).axis for spec in CHANNELS} == {"channels"}
    assert {dense_split(spec, target).axis for spec in DENSE_BANDS} == {"pixels"}
    assert dense_split(MANY_WEIGHTS, target).axis == "channels"
    assert split_of(SMALL, 8).axis == "channels"


@pytest.mark.parametrize("width", [14, 16, 32, 56, 64, 112])
@pytest.mark.parametrize("outside", [24, 32])
def test_sums_lie_on_the_stack(width: int, outside: int) -> None:
    """A ring has four axes, and the row between depthwise and project is 96 wide."""
    target = replace(get_target("x86-64-v4"), l1d_bytes=64 << 10, l2_bytes=1 << 20)  # blocks of any width are fused
    depthwise = ConvSpec(
        batch=1, height=width, width=width, in_channels=96, out_channels=96, kernel=(3, 3), padding=1, groups=96
    )
    image = replace(depthwise, kernel=(1, 1), padding=0, groups=1)
    expand, project = replace(image, in_channels=outside), replace(image, out_channels=outside)
    for spec in (depthwise, expand, project, BlockSpec(expand=expand, depthwise=depthwise, project=project)):
        kernel = schedule_kernel(spec, target)
        assert kernel is not None
        shapes = [
            [int(size) for size in sizes.split(",")]
            for sizes in re.findall(r"alloc_buffer\(\(([\d, ]+)\)", kernel.func.script())
        ]
        sums = [shape for shape in shapes if len(shape) == 2 and shape[1] == target.lanes]
        assert sums
        assert all(4 * prod(shape) < HEAP_BYTES for shape in sums)


def test_little_work_wakes_no_thread() -> None:
    kernel = schedule_kernel(replace(LARGE, height=4, width=4), replace(get_target("x86"), threads=2))
    assert kernel is not None
    assert "T.parallel(" not in kernel.func.script()


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (ConvSpec(batch=1, height=7, width=7, in_channels=8, out_channels=16), "pointwise"),
        (ConvSpec(batch=1, height=1, width=1, in_channels=8, out_channels=10), "pointwise"),
        (ConvSpec(batch=1, height=8, width=8, in_channels=8, out_channels=8, stride=2), "dense_conv"),
        (
            ConvSpec(batch=1, height=8, width=8, in_channels=8, out_channels=8, kernel=(3, 3), padding=1, groups=8),
            "depthwise",
        ),
        (PoolSpec(batch=1, height=4, width=4, channels=8), "mean_pool"),
    ],
)
def test_the_first_kind_that_takes_an_operator_schedules_it(spec: ConvSpec | PoolSpec, kind: str) -> None:
    kernel = schedule_kernel(spec, get_target("x86-64-v3"))
    assert kernel is not None
    assert kernel.name.startswith(kind)


def test_a_grouped_convolution_is_taken_by_none() -> None:
    grouped = ConvSpec(batch=1, height=8, width=8, in_channels=8, out_channels=8, kernel=(3, 3), padding=1, groups=2)
    assert schedule_kernel(grouped, get_target("x86-64-v3")) is None
