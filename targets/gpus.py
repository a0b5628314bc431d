"""Graphics processors of NVIDIA, by compute capability. A new one is an entry here.

Level 1 is one multiprocessor's, shared memory included; a multiprocessor is a core. Registers are a thread's, a vector
what it loads at once. Sources: CUDA C++ Programming Guide, "Compute Capabilities", and NVIDIA's white papers of the
architectures, for the device that is named.
"""

from __future__ import annotations

from functools import partial

from targets.target import AWAY, Target

_KIB, _MIB = 1 << 10, 1 << 20

cuda = partial(
    Target,
    kind="cuda",
    mtriple="x86_64-linux-gnu",
    vector_bits=128,
    vector_registers=255,
    l3_bytes=0,
    float16=(),
    toolchain="cuda",
    runner=AWAY,
)

GPUS: tuple[Target, ...] = (
    cuda(name="cuda-sm80", cpu_model="A100", mcpu="sm_80", l1d_bytes=192 * _KIB, l2_bytes=40 * _MIB, cores=108),
    cuda(name="cuda-sm86", cpu_model="A10", mcpu="sm_86", l1d_bytes=128 * _KIB, l2_bytes=6 * _MIB, cores=72),
    cuda(name="cuda-sm89", cpu_model="L4", mcpu="sm_89", l1d_bytes=128 * _KIB, l2_bytes=48 * _MIB, cores=58),
    cuda(name="cuda-sm90", cpu_model="H100", mcpu="sm_90", l1d_bytes=256 * _KIB, l2_bytes=50 * _MIB, cores=132),
)
