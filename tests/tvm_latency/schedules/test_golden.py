"""The code of every kind, as loops to read and by digest.

Whoever changes it raises SCHEDULE_VERSION, or that of GPUs, or old measurements would mix.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from targets.gpus import GPUS
from targets.target import DType, Target
from tvm_latency.schedules import GPU_SCHEDULE_VERSION, SCHEDULE_VERSION, schedule_kernel
from tvm_latency.schedules.kernel import BlockSpec, ConvSpec, PoolSpec, Spec
from tvm_latency.schedules.threads import PARALLEL_MACS

GOLDEN = Path(__file__).parents[2] / "golden" / "schedules.json"
GPU_GOLDEN = GOLDEN.with_name("gpu_schedules.json")
LOOPS = GOLDEN.with_name("loops")

BLOCK = ConvSpec(batch=1, height=14, width=14, in_channels=24, out_channels=24, clip=(0.0, 6.0))


def block(size: int) -> BlockSpec:
    image = replace(BLOCK, height=size, width=size)
    return BlockSpec(
        expand=replace(image, out_channels=96),
        depthwise=replace(image, in_channels=96, out_channels=96, kernel=(3, 3), padding=1, groups=96),
        project=replace(image, in_channels=96, clip=None, residual=True),
    )


SPECS: dict[str, Spec] = {
    "pointwise": BLOCK,
    "pointwise with residual": replace(BLOCK, clip=None, residual=True),
    "linear": ConvSpec(batch=1, height=1, width=1, in_channels=64, out_channels=1000),
    "depthwise": replace(BLOCK, kernel=(5, 5), padding=2, groups=24),
    "depthwise, stride 2": replace(BLOCK, kernel=(3, 3), padding=1, stride=2, groups=24),
    "stem": ConvSpec(batch=1, height=32, width=32, in_channels=3, out_channels=32, kernel=(3, 3), stride=2, padding=1),
    "dense": replace(BLOCK, kernel=(3, 3), padding=1),
    "large": replace(BLOCK, height=28, width=28, in_channels=96, out_channels=96),
    "many terms": replace(BLOCK, in_channels=288, out_channels=96),
    "half weights": replace(BLOCK, weights="float16"),
    "large, half weights": replace(BLOCK, height=28, width=28, in_channels=96, out_channels=96, weights="float16"),
    "few rows for their taps": ConvSpec(
        batch=1, height=7, width=7, in_channels=96, out_channels=96, kernel=(7, 7), padding=3, groups=96
    ),
    "inverted residual": block(56),
    "pool": PoolSpec(batch=1, height=7, width=7, channels=40),
}


def a_machine(lanes: int) -> Target:
    """NEON, AVX2 or AVX-512. The caches have a fixed size, so that the code is the same on every host."""
    arm = lanes == 4
    return Target(
        name="golden",
        kind="arm" if arm else "x86",
        cpu_model="a machine of the tests",
        mtriple="aarch64-linux-gnu" if arm else "x86_64-linux-gnu",
        mcpu={4: "cortex-a76", 8: "x86-64-v3", 16: "x86-64-v4"}[lanes],
        vector_bits=32 * lanes,
        vector_registers=32 if lanes != 8 else 16,
        l1d_bytes=32 << 10,
        l2_bytes=1 << 20,
        l3_bytes=32 << 20,
        cores=2,
        float16=() if arm else None,
    )


def digest(spec: Spec, target: Target) -> str:
    """Of what the operator is as one kernel, or that it is none."""
    kernel = schedule_kernel(spec, target)
    return hashlib.sha256(kernel.func.script().encode()).hexdigest()[:16] if kernel else "not one kernel"


def digests() -> dict[str, str]:
    found = {}
    for lanes, threads, (name, spec) in itertools.product((4, 8, 16), (1, 2), SPECS.items()):
        if threads == 1 or getattr(spec, "macs", 0) >= PARALLEL_MACS:
            found[f"{name}, {lanes} lanes, {threads} threads"] = digest(
                spec, replace(a_machine(lanes), threads=threads)
            )
    half = a_machine(4).with_dtype("float16")
    return found | {f"{name}, in float16": digest(spec, half) for name, spec in SPECS.items()}


# What is one kernel on GPUs alone.
GPU_SPECS: dict[str, Spec] = {
    "depthwise product": replace(block(14), expand=None),
    "large depthwise product": replace(block(112), expand=None),
}


def gpu_digests() -> dict[str, str]:
    types: tuple[DType, ...] = ("float32", "tf32", "float16")
    return {
        f"{name}, {gpu.name}, in {dtype}": digest(spec, gpu.with_dtype(dtype))
        for gpu, dtype, (name, spec) in itertools.product((GPUS[0], GPUS[-1]), types, (SPECS | GPU_SPECS).items())
    }


@pytest.mark.parametrize(
    ("file", "version", "digests"),
    [(GOLDEN, SCHEDULE_VERSION, digests), (GPU_GOLDEN, GPU_SCHEDULE_VERSION, gpu_digests)],
    ids=["CPU", "GPU"],
)
def test_code_that_changed_has_another_version(
    file: Path, version: int, digests: Callable[[], dict[str, str]], request: pytest.FixtureRequest
) -> None:
    found = {"schedule_version": version, "digests": digests()}
    update = request.config.getoption("--update-golden")
    golden = json.loads(file.read_text()) if file.exists() or not update else {"schedule_version": 0, "digests": {}}
    changed = [name for name, digest in found["digests"].items() if golden["digests"].get(name, digest) != digest]
    if golden["schedule_version"] == version:
        assert not changed, "raise the version in tvm_latency.schedules, then run this test with --update-golden"
    if update:
        file.write_text(json.dumps(found, indent=2) + "\n")
    else:
        assert found == golden, "run this test with --update-golden"


# One of each kind, small, with channels that fill no vector of 16 lanes and with every part of the epilogue.
SHOWN: dict[str, Spec] = {
    "pointwise": replace(BLOCK, residual=True, out_channels=28),
    "paired pointwise": replace(BLOCK, residual=True),  # of one and a half vectors
    "linear": ConvSpec(batch=1, height=1, width=1, in_channels=64, out_channels=10),
    "depthwise": replace(BLOCK, kernel=(3, 3), padding=1, stride=2, groups=24),
    "dense": replace(BLOCK, kernel=(3, 3), padding=1),
    "inverted residual": block(28),
    "pool": SPECS["pool"],
}
# What TVMScript says beside the loops, the places in them and what is stored there.
NOT_SHOWN = ("#", "@", "T.func_attr(", "T.reads(", "T.writes(")


def loops(spec: Spec, lanes: int) -> str:
    machine = a_machine(lanes)
    # Half of this is more than a row of the block needs and less than its image takes: so it is fused.
    kernel = schedule_kernel(spec, replace(machine, l2_bytes=256 << 10) if isinstance(spec, BlockSpec) else machine)
    assert kernel is not None
    lines = kernel.func.script().strip().splitlines()
    return "".join(f"{line}\n" for line in lines if line.strip() and not line.strip().startswith(NOT_SHOWN))


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("name", SHOWN)
def test_the_loops_are_those_that_were_read(name: str, lanes: int, request: pytest.FixtureRequest) -> None:
    file = LOOPS / f"{name.replace(' ', '_')}_{32 * lanes}.py.txt"
    spec = SHOWN[name]
    if name == "paired pointwise":
        assert isinstance(spec, ConvSpec)
        spec = replace(spec, out_channels=3 * lanes // 2)
    found = loops(spec, lanes)
    if request.config.getoption("--update-golden"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(found)
    assert found == file.read_text(), "read what changed, then run this test with --update-golden"
