"""The code of every kind for 64-bit ARM, run by qemu, against PyTorch; the harness that calls it, on this machine too.

A kernel needs no runtime of TVM but a few C functions, which `harness.c` has: so it is linked into a static executable.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi

from targets.registry import get_target
from targets.target import DTYPE_BYTES, DType, Target
from tvm_latency.schedules import schedule_kernel
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, Kernel, PoolSpec, Spec, with_weights
from tvm_latency.schedules.tiles import Product, matmul_tile

pytestmark = pytest.mark.compiles

MakeCase = Callable[[Spec, Kernel], Any]
HARNESS = Path(__file__).with_name("harness.c")

CORTEX = Target(
    name="cortex-a76",
    kind="arm",
    cpu_model="Cortex-A76",
    mtriple="aarch64-linux-gnu",
    mcpu="cortex-a76",
    vector_bits=128,
    vector_registers=32,
    l1d_bytes=64 << 10,
    l2_bytes=512 << 10,
    l3_bytes=2 << 20,
    cores=4,
    float16=(),
)

# Odd sizes, channels that fill no vector, both strides, every epilogue, batches.
ODD = ConvSpec(batch=1, height=13, width=11, in_channels=21, out_channels=37, clip=(0.0, 6.0))
EVEN = ConvSpec(batch=2, height=14, width=14, in_channels=32, out_channels=48)
DEPTHWISE = ConvSpec(batch=1, height=15, width=13, in_channels=24, out_channels=24, groups=24, kernel=(3, 3), padding=1)
SPECS: dict[str, list[Spec]] = {
    "pointwise": [ODD, EVEN, replace(ODD, clip=None, residual=True)],
    # Half a vector of four is left over.
    "paired pointwise": [replace(EVEN, out_channels=6), replace(EVEN, out_channels=10, residual=True)],
    "linear": [
        ConvSpec(batch=1, height=1, width=1, in_channels=64, out_channels=100),
        ConvSpec(batch=3, height=1, width=1, in_channels=17, out_channels=1, clip=(-1.0, 1.0)),
    ],
    "depthwise": [
        DEPTHWISE,
        replace(DEPTHWISE, kernel=(5, 5), padding=2, stride=2, clip=(0.0, 6.0)),
        replace(DEPTHWISE, kernel=(7, 7), padding=3, in_channels=19, out_channels=19, groups=19, residual=True),
    ],
    "dense": [
        replace(ODD, in_channels=3, kernel=(3, 3), padding=1, stride=2),
        replace(ODD, kernel=(3, 3), padding=1, residual=True),
        replace(EVEN, kernel=(5, 5), padding=2, stride=2),
        replace(EVEN, stride=2),
        replace(ODD, kernel=(7, 7), padding=0),
    ],
    "half weights": [replace(spec, weights="float16") for spec in (ODD, DEPTHWISE, replace(EVEN, stride=2))],
    "mean pool": [
        PoolSpec(batch=2, height=7, width=7, channels=40),
        PoolSpec(batch=1, height=5, width=3, channels=33),
    ],
}
HIDDEN = replace(DEPTHWISE, height=29, width=27, in_channels=40, out_channels=40, groups=40, clip=(0.0, 6.0))
EXPAND = ConvSpec(batch=1, height=29, width=27, in_channels=9, out_channels=40, clip=(0.0, 6.0))
HALVED = replace(HIDDEN, kernel=(5, 5), padding=2, stride=2)
# Blocks are fused where their image, 125 kB here, leaves the level-2 cache.
SMALL_CACHE = replace(CORTEX, l2_bytes=100_000)
BLOCKS = [
    BlockSpec(expand=EXPAND, depthwise=HIDDEN, project=replace(EXPAND, in_channels=40, out_channels=9, residual=True)),
    BlockSpec(
        expand=None,
        depthwise=HALVED,
        project=ConvSpec(batch=1, height=15, width=14, in_channels=40, out_channels=22),
    ),
    # The last vector of the hidden channels is only in part.
    BlockSpec(
        expand=replace(EXPAND, out_channels=42),
        depthwise=replace(HIDDEN, in_channels=42, out_channels=42, groups=42),
        project=replace(EXPAND, in_channels=42, out_channels=9, residual=True),
    ),
]
THREADED = [replace(EVEN, height=28, width=28), replace(EVEN, kernel=(3, 3), padding=1, in_channels=48)]


def cross_compiler() -> list[str]:
    """A C compiler that makes static executables for 64-bit ARM Linux; skips the test where there is none."""
    if found := shutil.which("aarch64-linux-gnu-gcc"):
        return [found, "-static"]
    if importlib.util.find_spec("ziglang"):
        return [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl", "-static"]
    pytest.skip("no C compiler for aarch64: install ziglang or gcc-aarch64-linux-gnu")


def emulator() -> list[str]:
    if platform.machine() == "aarch64":
        return []
    for name in ("qemu-aarch64", "qemu-aarch64-static"):
        if found := shutil.which(name):
            return [found]
    pytest.skip("no qemu-aarch64: install qemu-user")


def host_compiler() -> list[str]:
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    pytest.skip("no C compiler")


def wrong(
    specs: list[Spec], target: Target, compiler: list[str], start: list[str], folder: Path, make: Any
) -> list[Spec]:
    """Compile the kernels, link them with the harness and run it: those of which it writes something wrong."""
    scheduled = [schedule_kernel(spec, target) for spec in specs]
    kernels = [kernel for kernel in scheduled if kernel is not None]
    assert len(kernels) == len({kernel.name for kernel in kernels}) == len(specs)
    functions = {kernel.name: kernel.func.with_attr("global_symbol", kernel.name) for kernel in kernels}
    compiled = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(target.tvm_attributes()))
    compiled.mod.write_to_file(str(folder / "kernels.o"), "o")
    words = [
        "-O1",
        "-DKERNELS=" + " ".join(f"KERNEL({kernel.name})" for kernel in kernels),
        "-DTVM_FFI_CMAKE_LITTLE_ENDIAN=1",
        *(f"-I{path}" for path in tvm_ffi.libinfo.include_paths()),
        *(str(HARNESS), str(folder / "kernels.o"), "-lm", "-o", str(folder / "harness")),
    ]
    subprocess.run([*compiler, *words], check=True)
    cases = [make(spec, kernel) for spec, kernel in zip(specs, kernels)]
    with (folder / "jobs").open("w") as jobs, (folder / "inputs").open("wb") as inputs:
        for kernel, case in zip(kernels, cases):
            tensors = [*case.arguments, case.empty_output()]
            shapes = (" ".join(map(str, (8 * a.itemsize, a.ndim, *a.shape))) for a in tensors)
            print(kernel.name, len(tensors), *shapes, file=jobs)
            for argument in case.arguments:
                inputs.write(argument.tobytes())
    subprocess.run([*start, "./harness", "jobs", "inputs", "outputs"], cwd=folder, check=True, timeout=300)
    written = np.fromfile(folder / "outputs", target.dtype)
    assert written.size == sum(case.expected.size for case in cases)
    got = np.split(written, np.cumsum([case.expected.size for case in cases])[:-1])
    results = zip(specs, cases, got, strict=True)
    return [spec for spec, case, values in results if not case.accepts(values.reshape(case.expected.shape))]


def in_type(specs: Iterable[Spec], dtype: DType) -> list[Spec]:
    """The same with weights stored as what they are multiplied as."""

    def stored(spec: Spec) -> Spec:
        if not isinstance(spec, BlockSpec):
            return with_weights(spec, dtype)
        expand, depthwise, project = (
            conv and replace(conv, weights=dtype) for conv in (spec.expand, spec.depthwise, spec.project)
        )
        return BlockSpec(expand=expand, depthwise=depthwise, project=project)

    return [stored(spec) for spec in specs] if dtype == "float16" else [*specs]


@pytest.mark.parametrize("dtype", CORTEX.dtypes)
@pytest.mark.parametrize("kind", SPECS)
def test_a_kernel_for_arm_is_right(kind: str, dtype: DType, make_case: MakeCase, tmp_path: Path) -> None:
    target, specs = CORTEX.with_dtype(dtype), in_type(SPECS[kind], dtype)
    assert wrong(specs, target, cross_compiler(), emulator(), tmp_path, make_case) == []


@pytest.mark.parametrize(("threads", "dtype"), [(1, "float32"), (2, "float32"), (2, "float16")])
def test_a_fused_block_for_arm_is_right(threads: int, dtype: DType, make_case: MakeCase, tmp_path: Path) -> None:
    # Half as large, so that blocks of half the bytes are fused too.
    small = replace(SMALL_CACHE, threads=threads, l2_bytes=SMALL_CACHE.l2_bytes * DTYPE_BYTES[dtype] // 4)
    specs = in_type(BLOCKS, dtype)
    assert wrong(specs, small.with_dtype(dtype), cross_compiler(), emulator(), tmp_path, make_case) == []


def test_threads_on_arm_share_the_work(make_case: MakeCase, tmp_path: Path) -> None:
    target = replace(CORTEX, threads=2)
    for spec in THREADED:
        kernel = schedule_kernel(spec, target)
        assert kernel is not None
        assert "T.parallel(" in kernel.func.script()
    assert wrong([*THREADED], target, cross_compiler(), emulator(), tmp_path, make_case) == []


def loops_of(assembly: str) -> list[list[str]]:
    """The mnemonics of the innermost loops: blocks that end in a jump to their own label."""
    loops = []
    for label, body in re.findall(r"^(\.LBB\w+):.*((?:\n(?!\.LBB\w+:).*)*)", assembly, re.MULTILINE):
        words = re.findall(r"^\t([a-z][\w.]*)(.*)$", body, re.MULTILINE)
        jumps = [number for number, (name, rest) in enumerate(words) if name.startswith("b") and label in rest.split()]
        if jumps:
            loops.append([name for name, _ in words[: jumps[-1] + 1]])
    return loops


@pytest.mark.parametrize(("size", "terms", "channels"), [(14, 96, 576), (14, 576, 96), (7, 160, 960), (28, 32, 192)])
@pytest.mark.parametrize("dtype", CORTEX.dtypes)
def test_most_instructions_of_a_products_innermost_loop_multiply_and_add(
    size: int, terms: int, channels: int, dtype: DType
) -> None:
    """For eight terms a tile of 7 rows of 3 vectors has 168 multiply-adds, in float32 14 loads of rows, 12 of pairs of
    weights, and a few instructions of the loop: more than eight of ten. With a load for each broadcast it would be six.
    """
    spec = ConvSpec(batch=1, height=size, width=size, in_channels=terms, out_channels=channels, weights=dtype)
    kernel = schedule_kernel(spec, CORTEX.with_dtype(dtype))
    assert kernel is not None
    functions = {kernel.name: kernel.func.with_attr("global_symbol", kernel.name)}
    compiled = tvm.compile(tvm.IRModule(functions), target=tvm.target.Target(CORTEX.tvm_attributes()))
    products = [loop for loop in loops_of(compiled.mod.inspect_source("asm")) if "fmla" in loop]
    largest = max(products, key=lambda loop: loop.count("fmla"))
    assert largest.count("fmla") / len(largest) >= 0.8
    tile = matmul_tile(
        Product.on(CORTEX.with_dtype(dtype), spec.out_pixels, terms, channels), 16 // DTYPE_BYTES[dtype], 32
    )
    assert largest.count("fmla") == 8 * tile.rows * tile.columns // tile.vector, "eight terms in a turn"


@pytest.mark.parametrize("dtype", CORTEX.dtypes)
def test_the_harness_calls_kernels_of_this_machine_too(dtype: DType, make_case: MakeCase, tmp_path: Path) -> None:
    target = get_target("x86")
    if dtype == "float16" and target.float16 is None:
        pytest.skip("this machine has no AVX-512 FP16")
    specs = in_type(dict.fromkeys(spec for kind in SPECS.values() for spec in kind), dtype)
    specs = list(dict.fromkeys(specs))
    assert wrong(specs, target.with_dtype(dtype), host_compiler(), [], tmp_path, make_case) == []
