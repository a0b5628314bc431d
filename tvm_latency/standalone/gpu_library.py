"""A network for a GPU as a library that TVM's runtime loads, with the same code inside as netbench."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
from tvm import relax

from targets.toolchain import find_toolchain
from tvm_latency.gpu_network import GpuNetwork
from tvm_latency.lower import compiler_errors
from tvm_latency.network_plan import NetworkPlan
from tvm_latency.standalone.write import SelfTest, require_one_image, write_sources

# As it is called in tvm_entry.c.
NETWORK = "netlathe_network"


def write_gpu_library(network: GpuNetwork, path: Path) -> Path:
    """Link everything, weights included, into one shared library, whose `main` takes and answers tensors of the GPU.

    TVM's virtual machine calls the network as one function, which has a CUDA graph of all its kernels: between two of
    them stands nothing of TVM's.

    Raises:
        StandaloneError, ToolchainError: see `tvm_latency.standalone.write.write_standalone`.
    """
    toolchain = find_toolchain(network.target)
    require_one_image(network.plan)
    with compiler_errors("compiled"):
        attributes = tvm.target.Target(network.target.tvm_attributes())
        executable = tvm.compile(_caller(network.plan), attributes, relax_pipeline="default_build")
    with TemporaryDirectory() as name:
        work = Path(name)
        # A library tests nothing by itself.
        untested = SelfTest(np.zeros(0, np.float32), 0.0)
        sources = [*write_sources(network, work, "a network", untested), work / "tvm_entry.c"]
        toolchain.compile(sources)
        objects = [str(source.with_suffix(".o")) for source in sources]
        executable.export_library(str(path), fcompile=toolchain, addons=objects)
    return path


def _caller(plan: NetworkPlan) -> Any:
    """main(x) = netlathe_network(x), written into a tensor that the virtual machine makes."""
    (given,), answer = plan.inputs, plan.output
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType(given.shape, given.dtype))
    with builder.function("main", [x]):
        with builder.dataflow():
            called = relax.op.call_dps_packed(NETWORK, [x], out_ty=relax.TensorType(answer.shape, answer.dtype))
            result = builder.emit_output(called)
        builder.emit_func_output(result)
    return builder.get()
