"""How long networks take to compile for GPUs, from nothing, where there is none; and that it is their machine code.

python -m benchmarks.gpu_compile [--targets cuda-sm80,cuda-sm90] [--dtypes float32,tf32,float16]

The five published networks, `netbench` linked and all; each in a process of its own, with no kernel in any cache.
"""

from __future__ import annotations

import argparse
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.networks import PUBLISHED, network_model
from benchmarks.results import save_results
from pipeline.measure import code_versions
from targets.registry import get_target
from targets.target import DType
from tvm_latency.gpu_network import compile_for_gpu
from tvm_latency.standalone.write import SelfTest, write_netbench

MOST_S = 60.0
# Of an ELF header: where the version of the flags, the machine and the flags begin, and what the machine is called (see
# `EM_CUDA` in elf.h). The capability is the first byte of the flags, and the second from this version on, CUDA 13's.
VERSION, MACHINE, FLAGS, CUDA, SECOND = 8, 18, 48, 190, 8


def architecture(code: bytes) -> str:
    """What machine code is for: `sm_90` and the like.

    Raises:
        ValueError: it is none of CUDA's.
    """
    if code[:4] != b"\x7fELF" or int.from_bytes(code[MACHINE : MACHINE + 2], "little") != CUDA:
        raise ValueError("This is no machine code of CUDA.")
    return f"sm_{code[FLAGS + (code[VERSION] >= SECOND)]}"


def compiled(name: str, target_name: str, dtype: DType) -> dict[str, Any]:
    """Seconds, kernels and sizes of one network."""
    target, model = get_target(target_name).with_dtype(dtype), network_model(name)
    with TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        start = perf_counter()
        network = compile_for_gpu(model, target, target.stored)
        path, shape = Path(folder) / "netbench", network.plan.output.shape
        write_netbench(network, path, SelfTest(np.zeros(shape, np.float32), 0.0))
        seconds, size = perf_counter() - start, path.stat().st_size
    found = {architecture(kernel.code) for kernel in network.code.values()}
    if found != {target.mcpu}:
        raise ValueError(f"{name} was compiled for {found}, not {target.mcpu}.")
    return {
        "net": name,
        "target": target_name,
        "dtype": dtype,
        "seconds": seconds,
        "launches": sum(len(network.code[step.kernel].launches) for step in network.plan.steps),
        "kernels": len(network.code),
        "fallbacks": list(network.fallbacks),
        "code_bytes": sum(len(kernel.code) for kernel in network.code.values()),
        "netbench_bytes": size,
    }


def main() -> None:
    """Print a line for each network, save, and exit with 1 if one took too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", default="cuda-sm80,cuda-sm90")
    parser.add_argument("--dtypes", default="float32,tf32,float16")
    options = parser.parse_args()
    rows = []
    for target in options.targets.split(","):
        for dtype in options.dtypes.split(","):
            for name in PUBLISHED:
                with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                    row = pool.submit(compiled, name, target, dtype).result()
                rows.append(row)
                print(
                    f"{name:18} {target} {dtype:8} {row['seconds']:5.1f} s, {row['launches']} launches of "
                    f"{row['kernels']} kernels, {row['code_bytes'] >> 10} KiB of machine code",
                    flush=True,
                )
    compilers = {target: code_versions(get_target(target)) for target in options.targets.split(",")}
    print(f"written to {save_results('gpu_compile', get_target('x86'), {'rows': rows, 'compilers': compilers})}")
    sys.exit(max(row["seconds"] for row in rows) > MOST_S)


if __name__ == "__main__":
    main()
