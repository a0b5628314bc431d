"""What the driver says of the GPU in this machine."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

DRIVER = "libcuda.so.1"
# CU_DEVICE_ATTRIBUTE_... of cuda.h, CUDA Driver API 12.
_MULTIPROCESSORS, _L2_BYTES, _MAJOR, _MINOR, _SHARED_BYTES = 16, 38, 75, 76, 81
_NAME_BYTES = 256


@dataclass(frozen=True)
class GpuDevice:
    """A GPU. capability: `sm_90` and the like; shared_bytes: of one multiprocessor."""

    name: str
    capability: str
    multiprocessors: int
    shared_bytes: int
    l2_bytes: int


def find_gpu() -> GpuDevice | None:
    """The first GPU that the driver shows; None where there is no driver, or no GPU."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_BYTES)
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    if driver.cuDeviceGetName(name, _NAME_BYTES, device):
        return None

    def attribute(number: int) -> int:
        value = ctypes.c_int()
        driver.cuDeviceGetAttribute(ctypes.byref(value), number, device)
        return value.value

    return GpuDevice(
        name=name.value.decode(errors="replace"),
        capability=f"sm_{attribute(_MAJOR)}{attribute(_MINOR)}",
        multiprocessors=attribute(_MULTIPROCESSORS),
        shared_bytes=attribute(_SHARED_BYTES),
        l2_bytes=attribute(_L2_BYTES),
    )
