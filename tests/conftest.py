"""Options of the whole suite, and a GPU that is a CPU."""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from platformdirs import user_cache_path

# Hypothesis tries the same examples on every run, unless `--hypothesis-profile=thorough` asks for more, and others.
# How long one takes is the machine's affair.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files that tests compare with")


def pytest_configure(config: pytest.Config) -> None:
    """Let every process of one run of the suite share the kernels that were compiled, and no other run."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    folder = TemporaryDirectory(prefix="netlathe-tests-")
    config.add_cleanup(folder.cleanup)
    # Zig compiles a C library for each target once, which takes minutes.
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(user_cache_path("zig")))
    os.environ["XDG_CACHE_HOME"] = folder.name


CUDA_ON_CPU = Path(__file__).parent / "cuda_on_cpu"
# A GPU refuses to load a vector from where none begins.
_ALIGNED = ("-fsanitize=alignment", "-fsanitize-trap=alignment")
_CPP = (sys.executable, "-m", "ziglang", "c++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *_ALIGNED)


class CudaOnCpu:
    """Compiles device code for a CPU: what it answers, the driver of the same folder loads."""

    version = facts = "CUDA on a CPU"

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def cubin(self, text: str, arch: str) -> bytes:
        launched = "".join(
            f"LAUNCHED({name})\n" for name in sorted(set(re.findall(r"__launch_bounds__\(\d+\) (\w+)", text)))
        )
        # C++ has these the other way round.
        text = text.replace("__shared__ alignas(64)", "alignas(64) __shared__")
        # What it is in PTX; on a CPU a function of C++ stands in for each instruction.
        text = re.sub(r"__forceinline__ __device__ void netlathe_(mma|tf32)\(.*?\n}\n", "", text, flags=re.DOTALL)
        return self._compiled(f'#include "cuda_on_cpu.h"\n{text}\n{launched}').read_bytes()

    def driver(self) -> Path:
        """The folder of what comes with the driver."""
        folder = self.folder / "driver"
        folder.mkdir(exist_ok=True)
        for source, name in (("driver.cc", "libcuda.so.1"), ("nvml.cc", "libnvidia-ml.so.1")):
            self._compiled((CUDA_ON_CPU / source).read_text()).rename(folder / name)
        return folder

    def _compiled(self, text: str) -> Path:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        source, library = folder / "text.cc", folder / "library.so"
        source.write_text(text)
        words = [*_CPP, f"-I{CUDA_ON_CPU}", "-o", str(library), str(source)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return library


@pytest.fixture(scope="session")
def cuda_on_cpu(tmp_path_factory: pytest.TempPathFactory) -> CudaOnCpu:
    return CudaOnCpu(tmp_path_factory.mktemp("cuda-on-cpu"))
