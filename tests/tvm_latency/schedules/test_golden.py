"""The code of every kind, by digest: whoever changes it raises SCHEDULE_VERSION, or old measurements would mix."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from targets.target import Target, get_target
from tvm_latency.schedules import SCHEDULE_VERSION, schedule_kernel
from tvm_latency.schedules.kernel import ConvSpec, PoolSpec, Spec
from tvm_latency.schedules.parts import PARALLEL_MACS

GOLDEN = Path(__file__).parents[2] / "golden" / "schedules.json"

BLOCK = ConvSpec(batch=1, height=14, width=14, in_channels=24, out_channels=24, clip=(0.0, 6.0))
SPECS: dict[str, Spec] = {
    "pointwise": BLOCK,
    "pointwise with residual": replace(BLOCK, clip=None, residual=True),
    "linear": ConvSpec(batch=1, height=1, width=1, in_channels=64, out_channels=1000),
    "depthwise": replace(BLOCK, kernel=(5, 5), padding=2, groups=24),
    "depthwise, stride 2": replace(BLOCK, kernel=(3, 3), padding=1, stride=2, groups=24),
    "stem": ConvSpec(batch=1, height=32, width=32, in_channels=3, out_channels=32, kernel=(3, 3), stride=2, padding=1),
    "dense": replace(BLOCK, kernel=(3, 3), padding=1),
    "large": replace(BLOCK, height=28, width=28, in_channels=96, out_channels=96),
    "half weights": replace(BLOCK, weights="float16"),
    "pool": PoolSpec(batch=1, height=7, width=7, channels=40),
}


def a_machine(lanes: int) -> Target:
    """Caches of a fixed size, so that the digests are the same on every host."""
    return replace(
        get_target("x86-64-v3"),
        vector_bits=32 * lanes,
        vector_registers=32 if lanes != 8 else 16,
        l1d_bytes=32 << 10,
        l2_bytes=1 << 20,
        l3_bytes=32 << 20,
    )


def digests() -> dict[str, str]:
    found = {}
    for lanes, threads, (name, spec) in itertools.product((4, 8, 16), (1, 2), SPECS.items()):
        if threads == 1 or getattr(spec, "macs", 0) >= PARALLEL_MACS:
            kernel = schedule_kernel(spec, replace(a_machine(lanes), threads=threads))
            assert kernel is not None
            found[f"{name}, {lanes} lanes, {threads} threads"] = hashlib.sha256(
                kernel.func.script().encode()
            ).hexdigest()[:16]
    return found


def test_code_that_changed_has_another_version(request: pytest.FixtureRequest) -> None:
    found = {"schedule_version": SCHEDULE_VERSION, "digests": digests()}
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(found, indent=2) + "\n")
    golden = json.loads(GOLDEN.read_text())
    changed = [name for name, digest in found["digests"].items() if golden["digests"].get(name) != digest]
    if golden["schedule_version"] == SCHEDULE_VERSION:
        assert not changed, "raise SCHEDULE_VERSION, then run this test with --update-golden"
    assert found == golden, "run this test with --update-golden"
