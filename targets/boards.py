"""Machines that networks are compiled for from elsewhere. A new one is an entry here.

Caches are one core's of level 1, the level 2 that one core may fill (its own, or what a cluster shares), and the last
level that all cores share, which is that level 2 where there is no other. Where a core is licensed with several sizes,
they are the usual ones of phones. Sources: Arm's technical reference manuals (document numbers beside the cores), the
makers' data sheets of boards.
"""

from __future__ import annotations

from functools import partial

from targets.target import AWAY, EMULATED, Target

_KIB, _MIB = 1 << 10, 1 << 20

# NEON has 32 registers of 128 bits in AArch64; LLVM knows by a core's name of fp16 arithmetic and dot products.
_aarch64 = partial(
    Target,
    kind="arm",
    mtriple="aarch64-linux-gnu",
    vector_bits=128,
    vector_registers=32,
    toolchain="aarch64",
    runner=EMULATED,
)

BOARDS: tuple[Target, ...] = (
    _aarch64(
        # Cortex-A55 r2p0, document 100442: the little core of phones from 2018 on, fp16 and dot product.
        name="arm64-cortex-a55",
        emulator=("qemu-aarch64", "-cpu", "max"),
        cpu_model="Cortex-A55",
        mcpu="cortex-a55",
        float16=(),
        l1d_bytes=32 * _KIB,
        l2_bytes=128 * _KIB,
        l3_bytes=2 * _MIB,
        cores=4,
    ),
    _aarch64(
        # Cortex-A76, document 100798: 64 KiB, 128 to 512 KiB.
        name="arm64-cortex-a76",
        emulator=("qemu-aarch64", "-cpu", "cortex-a76"),
        cpu_model="Cortex-A76",
        mcpu="cortex-a76",
        float16=(),
        l1d_bytes=64 * _KIB,
        l2_bytes=256 * _KIB,
        l3_bytes=2 * _MIB,
        cores=4,
    ),
    _aarch64(
        # Cortex-A78, document 101430: 32 or 64 KiB, 256 or 512 KiB.
        name="arm64-cortex-a78",
        emulator=("qemu-aarch64", "-cpu", "max"),
        cpu_model="Cortex-A78",
        mcpu="cortex-a78",
        float16=(),
        l1d_bytes=64 * _KIB,
        l2_bytes=512 * _KIB,
        l3_bytes=4 * _MIB,
        cores=4,
    ),
    _aarch64(
        # Cortex-X1, document 101433: 64 KiB, 512 KiB or 1 MiB; one of them in a phone.
        name="arm64-cortex-x1",
        emulator=("qemu-aarch64", "-cpu", "max"),
        cpu_model="Cortex-X1",
        mcpu="cortex-x1",
        float16=(),
        l1d_bytes=64 * _KIB,
        l2_bytes=1 * _MIB,
        l3_bytes=4 * _MIB,
        cores=1,
    ),
    _aarch64(
        # Neoverse N1, document 100616: 64 KiB, 1 MiB, as in AWS Graviton2 (64 cores, 32 MiB) and Ampere Altra (to 80).
        name="neoverse-n1",
        emulator=("qemu-aarch64", "-cpu", "neoverse-n1"),
        cpu_model="Neoverse-N1",
        mcpu="neoverse-n1",
        float16=(),
        l1d_bytes=64 * _KIB,
        l2_bytes=1 * _MIB,
        l3_bytes=32 * _MIB,
        cores=64,
    ),
    _aarch64(
        # BCM2711: four Cortex-A72 (document 100095) without fp16 arithmetic, 1 MiB of level 2 for all.
        name="raspberry-pi-4",
        emulator=("qemu-aarch64", "-cpu", "cortex-a72"),
        cpu_model="Cortex-A72",
        mcpu="cortex-a72",
        l1d_bytes=32 * _KIB,
        l2_bytes=1 * _MIB,
        l3_bytes=1 * _MIB,
        cores=4,
    ),
    _aarch64(
        # BCM2712: four Cortex-A76 of 512 KiB, 2 MiB for all.
        name="raspberry-pi-5",
        emulator=("qemu-aarch64", "-cpu", "cortex-a76"),
        cpu_model="Cortex-A76",
        mcpu="cortex-a76",
        float16=(),
        l1d_bytes=64 * _KIB,
        l2_bytes=512 * _KIB,
        l3_bytes=2 * _MIB,
        cores=4,
    ),
    _aarch64(
        # Whatever runs 64-bit Android: ARMv8.0 as Cortex-A53 (document DDI0500) has it, with the least usual cluster
        # and no level 3.
        name="android-arm64",
        emulator=("qemu-aarch64", "-cpu", "cortex-a53"),
        cpu_model="ARMv8.0",
        mcpu="cortex-a53",
        toolchain="android",
        l1d_bytes=32 * _KIB,
        l2_bytes=512 * _KIB,
        l3_bytes=512 * _KIB,
        cores=4,
    ),
    _aarch64(
        # Phones from 2018 on: ARMv8.2 with fp16 arithmetic and dot products, as a Cortex-A55 has it.
        name="android-arm64-v8.2",
        emulator=("qemu-aarch64", "-cpu", "max"),
        cpu_model="ARMv8.2",
        mcpu="cortex-a55",
        float16=(),
        toolchain="android",
        l1d_bytes=32 * _KIB,
        l2_bytes=128 * _KIB,
        l3_bytes=2 * _MIB,
        cores=4,
    ),
    _aarch64(
        # Its Firestorm cores, by `sysctl hw.perflevel0` and Apple's CPU Optimization Guide: 128 KiB, and 12 MiB for all
        # four. The 8 MiB of the whole chip are fewer.
        name="apple-m1",
        runner=AWAY,
        cpu_model="Apple M1",
        mtriple="arm64-apple-macos12",
        mcpu="apple-m1",
        float16=(),
        toolchain="macos",
        l1d_bytes=128 * _KIB,
        l2_bytes=12 * _MIB,
        l3_bytes=12 * _MIB,
        cores=4,
    ),
    Target(
        # Cortex-A9, documents DDI0388 and DDI0409 (its NEON): 16 registers of 128 bits.
        name="armv7-cortex-a9",
        emulator=("qemu-arm", "-cpu", "cortex-a9"),
        kind="arm",
        cpu_model="Cortex-A9",
        mtriple="armv7-linux-gnueabihf",
        mcpu="cortex-a9",
        features=("+neon",),
        float_abi="hard",
        pointer_bits=32,
        vector_bits=128,
        vector_registers=16,
        l1d_bytes=32 * _KIB,
        l2_bytes=512 * _KIB,
        l3_bytes=512 * _KIB,
        cores=2,
        toolchain="arm",
        runner=EMULATED,
    ),
    Target(
        # RV64GC, as SiFive's U74 (manual 21G3): no vectors, 32 registers of one float each; 2 MiB of level 2 for all.
        name="riscv64",
        emulator=("qemu-riscv64",),
        kind="riscv",
        cpu_model="RV64GC",
        mtriple="riscv64-linux-gnu",
        mcpu="generic-rv64",
        features=("+m", "+a", "+f", "+d", "+c"),
        abi="lp64d",
        vector_bits=128,
        vector_registers=8,
        l1d_bytes=32 * _KIB,
        l2_bytes=2 * _MIB,
        l3_bytes=2 * _MIB,
        cores=4,
        toolchain="riscv64",
        runner=EMULATED,
    ),
)
