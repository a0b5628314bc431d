"""Kernels for GPUs compute what PyTorch does: their device code is run on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from targets.gpus import GPUS
from targets.target import DType
from tvm_latency.device_code import device_code
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.gpu import depthwise_product, matrix_product, mean_pool, product
from tvm_latency.schedules.gpu.tiles import MIDDLE_ROWS, MatrixTile, ProductTile, fused_tile, product_tile
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Kernel, PoolSpec, Spec

MakeCase = Callable[[Spec, Kernel], Any]
H100 = GPUS[-1]

POINTWISE = ConvSpec(batch=1, height=7, width=7, in_channels=96, out_channels=160, clip=(0.0, 6.0))
DEPTHWISE = ConvSpec(
    batch=1, height=14, width=14, in_channels=64, out_channels=64, groups=64, kernel=(3, 3), padding=1, clip=(0.0, 6.0)
)
STEM = ConvSpec(batch=1, height=33, width=31, in_channels=3, out_channels=32, kernel=(3, 3), padding=1, stride=2)
SPECS: list[Spec] = [
    POINTWISE,
    replace(POINTWISE, residual=True, clip=None),
    replace(POINTWISE, height=28, width=28, in_channels=16),
    replace(POINTWISE, in_channels=35, out_channels=21),
    replace(POINTWISE, in_channels=18, out_channels=1001, height=1, width=1, batch=3),
    replace(POINTWISE, weights="float16"),
    # Of matrix units in float16.
    *(
        replace(POINTWISE, weights="float16", in_channels=i, out_channels=o, height=h, residual=h == 28)
        for i, o, h in ((16, 96, 28), (24, 40, 28), (320, 21, 7), (960, 160, 7), (64, 1001, 1), (144, 24, 56))
    ),
    DEPTHWISE,
    replace(DEPTHWISE, stride=2),
    replace(DEPTHWISE, kernel=(5, 5), padding=2, height=9, width=11, residual=True),
    replace(DEPTHWISE, kernel=(7, 7), padding=3, batch=2, height=7, width=7),
    replace(DEPTHWISE, in_channels=21, out_channels=21, groups=21),
    replace(DEPTHWISE, padding=0, weights="float16"),
    # Enough pixels for threads that have several, of which the last has fewer.
    replace(DEPTHWISE, height=90, width=91, batch=2),
    STEM,
    replace(STEM, out_channels=21, weights="float16"),
    replace(STEM, in_channels=24, stride=1, residual=True),
    *(
        BlockSpec(
            expand=None,
            depthwise=replace(DEPTHWISE, height=7, width=9, in_channels=i, out_channels=i, groups=i, **of),
            project=replace(POINTWISE, height=h, width=w, in_channels=i, out_channels=o, residual=of == {}),
        )
        for i, o, h, w, of in (
            (96, 24, 7, 9, {}),
            (36, 21, 4, 5, {"stride": 2}),
            (68, 40, 7, 9, {"kernel": (7, 7), "padding": 3, "clip": None}),
        )
    ),
    *(
        BlockSpec(
            expand=None,
            depthwise=replace(DEPTHWISE, height=7, width=9, in_channels=36, out_channels=36, groups=36, **of),
            project=replace(POINTWISE, height=7, width=9, in_channels=36, out_channels=21, **of),
        )
        for of in ({"batch": 3}, {"weights": "float16"})
    ),
    PoolSpec(batch=2, height=7, width=7, channels=320),
    PoolSpec(batch=1, height=3, width=5, channels=21),
]


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        *(
            (spec, dtype)
            for spec in SPECS
            for dtype in ("float32", "float16")
            if dtype == "float32" or not isinstance(spec, BlockSpec)
        ),
        # Of matrix units in tf32; the rest is as in float32.
        *(
            (replace(spec, weights="float32"), "tf32")
            for spec in SPECS
            if isinstance(spec, ConvSpec) and spec.pointwise and spec.in_channels % 4 == 0
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value.suffix,
)
def test_device_code_computes_what_pytorch_does(
    spec: Spec, dtype: DType, make_case: MakeCase, run_on_cpu: Callable[..., None]
) -> None:
    kernel = schedule_kernel(spec, H100.with_dtype(dtype))
    assert_right(kernel, spec, dtype, make_case, run_on_cpu)


def assert_right(kernel: Kernel | None, spec: Spec, dtype: DType, make_case: MakeCase, run_on_cpu: Any) -> None:
    assert kernel is not None
    # Both factors of a product are rounded to 11 bits.
    case = make_case(spec, kernel, wide=True, products=2.001 * 2**-11 if dtype == "tf32" else 0.0)
    operands = [*case.arguments, case.empty_output()]
    run_on_cpu(device_code(kernel.func, kernel.name, H100.with_dtype(dtype)), operands)
    assert case.accepts(operands[-1])


# Every number of a tile takes every value that tiles have, not all of them together.
OF_PRODUCTS = [
    ProductTile(rows, columns, row_threads, column_threads, parts)
    for (rows, columns), row_threads, column_threads, parts in (
        ((1, 4), 1, 8, 16), ((2, 4), 16, 4, 1), ((4, 4), 8, 16, 1), ((8, 4), 4, 2, 8),
        ((4, 8), 2, 1, 32), ((8, 8), 32, 4, 1), ((8, 8), 2, 8, 4), ((2, 4), 1, 16, 8),
    )
]  # fmt: skip
OF_MATRICES = [
    MatrixTile(*numbers)
    for numbers in (
        (1, 2, 4, 1, 1),
        (1, 4, 1, 8, 2),
        (2, 2, 1, 2, 8),
        (2, 4, 2, 2, 1),
        (4, 2, 1, 1, 8),
        (4, 4, 4, 1, 2),
    )
]
ODD = replace(POINTWISE, height=9, width=13, in_channels=72, out_channels=101, residual=True, weights="float16")


@pytest.mark.parametrize(
    ("tile", "dtype"),
    [
        *((tile, "float32") for tile in OF_PRODUCTS),
        *((tile, "float16") for tile in OF_MATRICES),
        *((tile, "tf32") for tile in OF_MATRICES[::2]),
    ],
    ids=lambda value: repr(value).partition("(")[2][:-1] if isinstance(value, ProductTile | MatrixTile) else value,
)
def test_every_tile_computes_the_same(
    tile: ProductTile | MatrixTile, dtype: DType, make_case: MakeCase, run_on_cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(tile, MatrixTile):
        monkeypatch.setattr(matrix_product, "matrix_tile", lambda m, k, n, target: tile)
        target = H100.with_dtype(dtype)
        odd = replace(ODD, weights=target.stored)
        assert_right(matrix_product.matrix_product(odd, target), odd, dtype, make_case, run_on_cpu)
    else:
        monkeypatch.setattr(product, "product_tile", lambda m, k, n, target: tile)
        assert_right(product.product(ODD, H100), ODD, "float32", make_case, run_on_cpu)


@pytest.mark.parametrize(
    "tile",
    [tile for tile in OF_PRODUCTS if tile.block_rows * tile.parts <= MIDDLE_ROWS],
    ids=lambda tile: repr(tile).partition("(")[2][:-1],
)
def test_every_tile_computes_its_own_input(
    tile: ProductTile, make_case: MakeCase, run_on_cpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(depthwise_product, "fused_tile", lambda spec, target: tile)
    convolution = replace(DEPTHWISE, height=9, width=13, in_channels=72, out_channels=72, groups=72)
    block = BlockSpec(expand=None, depthwise=convolution, project=replace(ODD, weights="float32"))
    kernel = depthwise_product.depthwise_product(block, H100)
    assert_right(kernel, block, "float32", make_case, run_on_cpu)


def test_what_computes_its_own_input_saves_a_launch_where_pixels_are_few() -> None:
    """With many images a panel more is the whole depthwise convolution once more."""
    late = {"height": 14, "width": 14, "in_channels": 576}
    few, many = (
        BlockSpec(
            expand=None,
            depthwise=replace(DEPTHWISE, **late, batch=batch, out_channels=576, groups=576),
            project=replace(POINTWISE, **late, batch=batch, out_channels=96),
        )
        for batch in (1, 64)
    )
    assert fused_tile(few, H100) is not None
    assert fused_tile(many, H100) is None


def test_tf32_is_the_nearest_of_11_bits() -> None:
    values = (np.random.default_rng(0).standard_normal(1000) * 2.0 ** np.arange(-50, 50, 0.1)).astype(np.float32)
    found = matrix_product.rounded(values)
    assert not (found.view(np.uint32) & 0x1FFF).any()
    assert (abs(found - values) <= 2.0**-11 * abs(values)).all()
    kept = np.array([0.0, np.inf, np.nan], np.float32)
    assert np.array_equal(matrix_product.rounded(kept), kept, equal_nan=True)


def test_what_is_multiplied_in_tf32_is_rounded_and_not_cut_off(
    make_case: MakeCase, run_on_cpu: Callable[..., None]
) -> None:
    """Each factor is three quarters of a unit above a number of 11 bits: cut off, it would be far below."""
    spec = replace(POINTWISE, clip=None)
    kernel = matrix_product.matrix_product(spec, H100.with_dtype("tf32"))
    assert kernel is not None
    case = make_case(spec, kernel, wide=True)
    x, weights, bias = case.arguments
    x[...] = weights[...] = 1 + 0.75 * 2**-10
    weights[...] = matrix_product.rounded(weights)
    bias[...] = 0
    output = case.empty_output()
    run_on_cpu(device_code(kernel.func, kernel.name, H100), [x, weights, bias, output])
    assert np.allclose(output, spec.in_channels * (1 + 2**-10) ** 2, rtol=1e-5)


def test_tiles_use_what_a_gpu_has() -> None:
    """Few pixels are shared out to many blocks, and many are not computed one by one."""
    small, large = (product_tile(m, 960, 160, H100) for m in (49, 49 * 64))
    assert small.blocks(49, 160) > 132
    assert large.rows * large.columns > small.rows * small.columns
    assert large.cycles(49 * 64, 960, 160, H100) > small.cycles(49, 960, 160, H100)


def test_what_lacks_a_barrier_is_found(
    make_case: MakeCase, run_on_cpu: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests above would say nothing about barriers."""
    monkeypatch.setattr(mean_pool, "wait_for_block", lambda: None)
    spec = PoolSpec(batch=1, height=7, width=7, channels=64)
    kernel = mean_pool.mean_pool(spec, H100)
    assert kernel is not None
    case = make_case(spec, kernel, wide=True)
    code = device_code(kernel.func, kernel.name, H100)
    with pytest.raises(AssertionError, match="the order of threads"):
        run_on_cpu(code, [*case.arguments, case.empty_output()])
