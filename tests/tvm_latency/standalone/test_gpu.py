"""The plain C form for GPUs: compiled for real ones, and run whole on a CPU, driver and all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tvm
from tvm.runtime.vm import VirtualMachine

from benchmarks.gpu_compile import architecture
from targets.cuda_compiler import find_cuda_compiler
from targets.gpus import GPUS
from targets.target import DType
from tvm_latency.expected import expected_output
from tvm_latency.gpu_network import compile_for_gpu
from tvm_latency.standalone.write import NETBENCH, SelfTest, probe_input, write_standalone

pytestmark = pytest.mark.compiles
H100 = GPUS[-1]
SIZE = 34


@pytest.fixture(scope="module", params=["float32", "float16"])
def program(
    request: pytest.FixtureRequest,
    cuda_on_cpu: Any,
    mobile_network: Callable[[int], onnx.ModelProto],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Netbench of a network with a kernel of every kind, with a driver for this CPU."""
    dtype: DType = request.param
    model, folder = mobile_network(SIZE), tmp_path_factory.mktemp("artefact")
    network = compile_for_gpu(model, H100.with_dtype(dtype), dtype, cuda_on_cpu)
    expected = expected_output(model, probe_input((1, 3, SIZE, SIZE)))
    allowed = (1e-4 if dtype == "float32" else 2e-2) * float(np.abs(expected).max())
    write_standalone(network, folder, "a test", SelfTest(expected, allowed))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(cuda_on_cpu.driver())}

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        words, given = [str(folder / NETBENCH), *options], {**environment, **variables}
        return subprocess.run(words, env=given, capture_output=True, text=True, check=False, timeout=120)

    return run


def test_netbench_computes_what_numpy_does(program: Callable[..., Any]) -> None:
    done = program("--json", "--num_runs=3", "--min_secs=0", "--samples", "--evict_bytes=4096")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    found = json.loads(done.stdout)
    assert found["same_top1"]
    assert len(found["samples_s"]) == 3
    assert min(found["samples_s"]) > 0.0
    assert found["call_median_ms"] > found["min_ms"]
    assert found["clock_mhz"] == 1980


def test_a_profile_has_every_kernel_and_adds_up(program: Callable[..., Any]) -> None:
    found = json.loads(program("--json", "--num_runs=3", "--min_secs=0", "--profile").stdout)
    kinds = {operator["name"].partition("_n1")[0] for operator in found["operators"]}
    assert {"dense_conv", "product", "mean_pool"} <= kinds
    # Only products in float16 are on matrix units, and only in float32 are two kernels one.
    chosen = {"depthwise", "depthwise_product", "matrix_product"} & kinds
    assert chosen in ({"depthwise_product"}, {"depthwise", "matrix_product"})
    total = sum(operator["mean_ms"] for operator in found["operators"])
    assert total == pytest.approx(found["mean_ms"], rel=0.5)


def test_a_machine_without_such_a_gpu_is_refused_with_a_sentence(program: Callable[..., Any]) -> None:
    without = program(LD_LIBRARY_PATH="")
    assert without.returncode == 3
    assert "this machine lacks an NVIDIA GPU with its driver, which the network was compiled for" in without.stderr
    assert program(CUDA_ON_CPU_NO_DEVICE="1").returncode == 3
    for other, returned in (("86", 3), ("100", 3), ("90", 0)):
        assert program("--num_runs=0", CUDA_ON_CPU_CAPABILITY=other).returncode == returned
    assert "compute capability 9.0 (its own has 8.6)" in program(CUDA_ON_CPU_CAPABILITY="86").stderr


def test_a_wrong_answer_is_refused(
    cuda_on_cpu: Any, mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path
) -> None:
    network = compile_for_gpu(mobile_network(8), H100, compiler=cuda_on_cpu)
    write_standalone(network, tmp_path, "a test", SelfTest(np.full(10, 1e3, np.float32), 1.0))
    environment = {**os.environ, "LD_LIBRARY_PATH": str(cuda_on_cpu.driver())}
    done = subprocess.run([tmp_path / NETBENCH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the output is off by" in done.stderr


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_machine_code_is_for_the_architecture(mobile_network: Callable[[int], onnx.ModelProto], arch: str) -> None:
    """By the ELF header."""
    network = compile_for_gpu(mobile_network(32), replace(H100, mcpu=arch), compiler=find_cuda_compiler())
    assert {architecture(kernel.code) for kernel in network.code.values()} == {arch}
    with pytest.raises(ValueError, match=r"no machine code of CUDA\."):
        architecture(Path(sys.executable).read_bytes())


CALL = """
import ctypes, sys
import numpy as np

class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("byte_offset", ctypes.c_uint64),
    ]

class Any(ctypes.Structure):
    _fields_ = [("type_index", ctypes.c_int32), ("padding", ctypes.c_uint32), ("pointer", ctypes.c_void_p)]

def tensor(array, device):
    shape = (ctypes.c_int64 * array.ndim)(*array.shape)
    return Tensor(array.ctypes.data, device, 0, array.ndim, 2, 32, 1, shape, None, 0)

def aligned(array):
    room = np.empty(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    inside = room[start : start + array.nbytes].view(np.float32).reshape(array.shape)
    inside[...] = array
    return inside

library, expected = ctypes.CDLL(sys.argv[1]), np.load(sys.argv[2])
image, outputs = aligned(expected["image"]), [aligned(np.full((1, 10), np.nan, np.float32)) for _ in range(7)]
for device, outputs in ((1, outputs[:1]), (2, outputs)):
    # More buffers than graphs are kept, each twice.
    for output in (*outputs, *outputs):
        given = [tensor(image, device), tensor(output, device)]
        arguments = (Any * 2)(*(Any(7, 0, ctypes.addressof(t)) for t in given))
        status = library.__tvm_ffi_netlathe_network(None, arguments, 2, ctypes.byref(Any()))
        assert status == (0 if device == 2 else -1), status
        assert device == 1 or abs(output - expected["output"]).max() <= expected["tolerance"]
        output[...] = np.nan
"""


def test_the_library_for_tvm_computes_the_same(
    cuda_on_cpu: Any, mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path
) -> None:
    """As TVM's virtual machine calls it; what it refuses is not in the memory of a GPU."""
    model = mobile_network(SIZE)
    library = compile_for_gpu(model, H100, compiler=cuda_on_cpu).export(tmp_path / "model.so")
    image = probe_input((1, 3, SIZE, SIZE))
    output = expected_output(model, image)
    tolerance = 1e-4 * np.abs(output).max()
    np.savez(tmp_path / "expected.npz", image=image, output=output, tolerance=tolerance)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(cuda_on_cpu.driver())}
    words = [sys.executable, "-c", CALL, str(library), str(tmp_path / "expected.npz")]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_tvm_says_where_the_input_belongs(mobile_network: Callable[[int], onnx.ModelProto], tmp_path: Path) -> None:
    library = compile_for_gpu(mobile_network(8), H100).export(tmp_path / "model.so")
    machine = VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    with pytest.raises(ValueError, match=r"make the virtual machine for tvm\.cuda\(0\)"):
        machine["main"](tvm.runtime.tensor(np.zeros((1, 3, 8, 8), np.float32)))
