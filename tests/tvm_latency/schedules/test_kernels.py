"""Every kernel kind against PyTorch in float64, on shapes that Hypothesis picks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import tvm
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from targets.target import Target, get_target
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.dense_conv import dense_conv
from tvm_latency.schedules.depthwise import depthwise
from tvm_latency.schedules.kernel import ConvSpec, Kernel, PoolSpec
from tvm_latency.schedules.mean_pool import mean_pool
from tvm_latency.schedules.pointwise import pointwise

pytestmark = pytest.mark.compiles

TARGETS = ["x86", "x86-64-v3"]
EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def run(kernel: Kernel, target: Target, arguments: list[np.ndarray], out_shape: tuple[int, int]) -> np.ndarray:
    module = tvm.IRModule({"main": kernel.func.with_attr("global_symbol", "main")})
    library = tvm.compile(module, target=tvm.target.Target(target.tvm_attributes()))
    tensors = [tvm.runtime.tensor(a) for a in [*arguments, np.full(out_shape, np.nan, np.float32)]]
    library["main"](*tensors)
    return tensors[-1].numpy()


def check_conv(kernel: Kernel, spec: ConvSpec, target: Target, seed: int) -> None:
    random = np.random.default_rng(seed)
    draw = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    x = draw(spec.batch, spec.in_channels, spec.height, spec.width)
    weights = draw(spec.out_channels, spec.in_channels // spec.groups, *spec.kernel)
    bias, residual = draw(spec.out_channels), draw(spec.batch, spec.out_channels, spec.out_height, spec.out_width)

    def convolve(*operands: np.ndarray) -> torch.Tensor:
        a, w, b = (torch.from_numpy(o).double() for o in operands)
        return torch.nn.functional.conv2d(a, w, b, stride=spec.stride, padding=spec.padding, groups=spec.groups)

    expected = convolve(x, weights, bias) + (torch.from_numpy(residual) if spec.residual else 0)
    # Each of the additions rounds once: eps/2 times the sum of magnitudes, to first order.
    additions = weights[0].size + 2
    magnitude = convolve(abs(x), abs(weights), abs(bias)) + (torch.from_numpy(abs(residual)) if spec.residual else 0)
    bound = additions * np.finfo(np.float32).eps * magnitude
    if spec.clip is not None:
        expected = expected.clip(*spec.clip)

    def pixels(a: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(a.transpose(0, 2, 3, 1)).reshape(-1, a.shape[1])

    (pack,) = kernel.packs
    arguments = [x if kernel.input_layout == "NCHW" else pixels(x), pack(weights), bias]
    arguments += [pixels(residual)] if spec.residual else []
    got = run(kernel, target, arguments, (spec.out_pixels, spec.out_channels))
    got = got.reshape(spec.batch, spec.out_height, spec.out_width, spec.out_channels).transpose(0, 3, 1, 2)
    assert np.all(abs(got - expected.numpy()) <= bound.numpy())


CLIPS = st.sampled_from([None, (0.0, 6.0), (0.0, float("inf")), (-1.0, 1.0)])


@EXAMPLES
@given(st.data())
def test_pointwise(data: st.DataObject) -> None:
    spec = ConvSpec(
        batch=data.draw(st.integers(1, 3)),
        height=data.draw(st.integers(1, 20)),
        width=data.draw(st.integers(1, 20)),
        in_channels=data.draw(st.integers(1, 200)),
        out_channels=data.draw(st.integers(1, 200)),
        clip=data.draw(CLIPS),
        residual=data.draw(st.booleans()),
    )
    target = get_target(data.draw(st.sampled_from(TARGETS)))
    kernel = pointwise(spec, target)
    assert kernel is not None
    check_conv(kernel, spec, target, seed=0)


@EXAMPLES
@given(st.data())
def test_depthwise(data: st.DataObject) -> None:
    kernel_size, channels = data.draw(st.sampled_from([3, 5, 7])), data.draw(st.integers(2, 100))
    spec = ConvSpec(
        batch=data.draw(st.integers(1, 2)),
        height=data.draw(st.integers(kernel_size, 20)),
        width=data.draw(st.integers(kernel_size, 20)),
        in_channels=channels,
        out_channels=channels,
        kernel=(kernel_size, kernel_size),
        stride=data.draw(st.sampled_from([1, 2])),
        padding=data.draw(st.sampled_from([0, kernel_size // 2])),
        groups=channels,
        clip=data.draw(CLIPS),
        residual=data.draw(st.booleans()),
    )
    target = get_target(data.draw(st.sampled_from(TARGETS)))
    kernel = depthwise(spec, target)
    assert kernel is not None
    check_conv(kernel, spec, target, seed=1)


@EXAMPLES
@given(st.data())
def test_dense_conv(data: st.DataObject) -> None:
    kernel_size = data.draw(st.sampled_from([1, 3, 5]))
    spec = ConvSpec(
        batch=data.draw(st.integers(1, 2)),
        height=data.draw(st.integers(kernel_size, 20)),
        width=data.draw(st.integers(kernel_size, 20)),
        in_channels=data.draw(st.integers(1, 40)),
        out_channels=data.draw(st.integers(1, 100)),
        kernel=(kernel_size, kernel_size),
        stride=data.draw(st.sampled_from([1, 2])),
        padding=data.draw(st.sampled_from([0, kernel_size // 2])),
        clip=data.draw(CLIPS),
        residual=data.draw(st.booleans()),
    )
    target = get_target(data.draw(st.sampled_from(TARGETS)))
    kernel = dense_conv(spec, target)
    assert kernel is not None
    check_conv(kernel, spec, target, seed=2)


@EXAMPLES
@given(st.integers(1, 3), st.integers(1, 15), st.integers(1, 15), st.integers(1, 300), st.sampled_from(TARGETS))
def test_mean_pool(batch: int, height: int, width: int, channels: int, name: str) -> None:
    target = get_target(name)
    kernel = mean_pool(PoolSpec(batch=batch, height=height, width=width, channels=channels), target)
    assert kernel is not None
    x = np.random.default_rng(3).standard_normal((batch * height * width, channels)).astype(np.float32)
    images = x.reshape(batch, -1, channels).astype(np.float64)
    bound = (height * width + 1) * np.finfo(np.float32).eps * abs(images).mean(1)
    got = run(kernel, target, [x], (batch, channels))
    assert np.all(abs(got - images.mean(1)) <= bound)


LARGE = ConvSpec(batch=2, height=28, width=28, in_channels=64, out_channels=64, residual=True)


@pytest.mark.parametrize(
    "spec",
    [
        LARGE,
        replace(LARGE, kernel=(5, 5), padding=2, groups=64),
        replace(LARGE, kernel=(3, 3), padding=1, stride=2),
        ConvSpec(batch=1, height=65, width=65, in_channels=3, out_channels=40, kernel=(3, 3), stride=2, padding=1),
    ],
    ids=["pointwise", "depthwise", "dense", "stem"],
)
def test_threads_share_the_work_and_not_the_result(spec: ConvSpec) -> None:
    target = replace(get_target("x86"), threads=2)
    kernel = schedule_kernel(spec, target)
    assert kernel is not None
    assert "T.parallel(" in kernel.func.script()
    check_conv(kernel, spec, target, seed=4)


@pytest.mark.parametrize(
    "spec",
    [
        replace(LARGE, batch=1, height=6, width=6, out_channels=24),
        replace(LARGE, batch=1, height=6, width=6, kernel=(3, 3), padding=1, groups=64),
        ConvSpec(batch=1, height=13, width=13, in_channels=3, out_channels=40, kernel=(3, 3), stride=2, padding=1),
    ],
    ids=["pointwise", "depthwise", "stem"],
)
def test_every_tile_computes_the_same_and_the_first_is_the_default(spec: ConvSpec) -> None:
    target = get_target("x86-64-v3")
    default = schedule_kernel(spec, target)
    assert default is not None
    codes = []
    for tile in default.tiles:
        kernel = schedule_kernel(spec, target, tile)
        assert kernel is not None
        assert (kernel.name, kernel.tiles) == (default.name, default.tiles)
        codes.append(kernel.func.script())
    assert codes[0] == default.func.script()
    assert len(set(codes)) == len(codes)
    for tile in default.tiles[:: max(1, len(default.tiles) // 6)]:
        kernel = schedule_kernel(spec, target, tile)
        assert kernel is not None
        check_conv(kernel, spec, target, seed=5)


def test_little_work_wakes_no_thread() -> None:
    kernel = schedule_kernel(replace(LARGE, height=7, width=7), replace(get_target("x86"), threads=2))
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
