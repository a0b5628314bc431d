"""ncnn, with networks converted by its own pnnx."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from pipeline.agreement import Images
from pipeline.peers.interface import BenchModel, Bound, RuntimeUnavailableError

# pnnx names what goes in and comes out of every network so.
_INPUT, _OUTPUT = "in0", "out0"
# ncnn would store weights and activations in 16 bits, and compute so where the CPU can.
_SIXTEEN_BITS = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


class Ncnn:
    """ncnn in float32; everything else, such as Winograd, GEMM and its packed layouts, is at its defaults."""

    name, packages = "ncnn", {"ncnn": "ncnn", "pnnx": "pnnx"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Convert, load; every inference has an extractor of its own, as ncnn has it."""
        import ncnn

        net = ncnn.Net()
        net.opt.num_threads = threads
        for option in _SIXTEEN_BITS:
            setattr(net.opt, option, False)
        with TemporaryDirectory() as folder:
            param, weights = convert(Path(model.onnx_file), Path(folder))
            if net.load_param(str(param)) or net.load_model(str(weights)):
                raise RuntimeUnavailableError("ncnn cannot load this network: leave `ncnn` out of --against.")
        # It has no batch: the only image of a batch of one. A copy, since the matrix does not keep the array alive.
        source = ncnn.Mat(np.ascontiguousarray(image[0])).clone()

        def run() -> object:
            extractor = net.create_extractor()
            extractor.input(_INPUT, source)
            status, result = extractor.extract(_OUTPUT)
            if status:
                raise RuntimeUnavailableError("ncnn cannot run this network: leave `ncnn` out of --against.")
            return result

        def output() -> NDArray[np.float32]:
            return np.array(run(), dtype=np.float32)[np.newaxis]

        return Bound(run, output)


def convert(onnx_file: Path, folder: Path) -> tuple[Path, Path]:
    """Write ncnn's two files for the model, weights in float32, into `folder`.

    Raises:
        RuntimeUnavailableError: pnnx failed.
    """
    import pnnx

    copyfile(onnx_file, folder / "net.onnx")
    done = subprocess.run(
        [pnnx.EXEC_PATH, "net.onnx", "fp16=0"], cwd=folder, capture_output=True, text=True, check=False
    )
    files = folder / "net.ncnn.param", folder / "net.ncnn.bin"
    if done.returncode or not all(file.exists() for file in files):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RuntimeUnavailableError(
            f"pnnx cannot convert this network for ncnn (status {done.returncode}): {last}. "
            "Leave `ncnn` out of --against."
        )
    return files
