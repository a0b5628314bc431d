"""Doctor: whether this machine can do what Netlathe needs, one check after the other."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

from pipeline.disk import NEEDED_BYTES
from pipeline.errors import expected_errors, sentence
from targets.boards import BOARDS
from targets.cuda_compiler import find_cuda_compiler
from targets.emulator import launcher
from targets.gpus import GPUS
from targets.toolchain import ToolchainError, find_toolchain

_PACKAGE_PARENT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at; `text` says what was found, or what to do about it."""

    name: str
    ok: bool
    text: str


def examine(folder: Path) -> Iterator[Check]:
    """Every check in turn; `folder` is where a run would write."""
    yield from _packages()
    free = shutil.disk_usage(folder).free
    yield Check("disk", free >= NEEDED_BYTES, f"{free / 2**30:.1f} GB free; a run needs {NEEDED_BYTES / 2**30:.1f} GB")
    yield _elsewhere()
    yield _gpus()
    loading = _loads("tvm")
    yield loading
    if loading.ok:
        yield _tried("target", _target)
        yield _tried("compile, link, run", _compile_and_run)


def _packages() -> Iterator[Check]:
    yield Check("Python", True, platform.python_version())
    for text in requires("netlathe") or ():
        wanted = Requirement(text)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield Check(wanted.name, False, f"not installed: `pip install '{wanted}'`")
            continue
        fits = wanted.specifier.contains(found, prereleases=True)
        yield Check(
            wanted.name, fits, found if fits else f"{found}, needed {wanted.specifier}: `pip install '{wanted}'`"
        )


def _elsewhere() -> Check:
    """What there is for machines elsewhere: nobody has to use them, so what is missing is no failure."""
    boards = {board.toolchain: board for board in BOARDS}
    missing = {}
    for machine, board in boards.items():
        try:
            find_toolchain(board)
        except ToolchainError as error:
            missing[f"no compiler for {machine}"] = error.install or str(error)
        if board.emulator and launcher(board) is None:
            missing[f"no {board.emulator[0]} to test with"] = "apt install qemu-user"
    if find_spec("adbutils") is None:
        missing["no adb to measure on phones with"] = 'pip install "netlathe[adb]"'
    if shutil.which("ssh") is None:
        missing["no ssh to measure on boards with"] = "apt install openssh-client"
    if not missing:
        emulated = ", ".join(machine for machine, board in boards.items() if board.emulator)
        return Check(
            "other machines", True, f"compilers for {', '.join(boards)}; emulators for {emulated}; adb and ssh"
        )
    return Check("other machines", True, "; ".join(f"{what}: `{line}`" for what, line in missing.items()))


def _gpus() -> Check:
    """Nor does anybody have to compile for GPUs."""
    try:
        return Check("GPUs", True, f"{find_cuda_compiler().version} compiles for {', '.join(gpu.name for gpu in GPUS)}")
    except ToolchainError as error:
        return Check("GPUs", True, f"no compiler of CUDA: `{error.install}`")


def _loads(module: str) -> Check:
    """In a process of its own: a broken library may end it with any exception, or with none."""
    command = [sys.executable, "-c", f"import {module}"]
    done = subprocess.run(command, cwd=_PACKAGE_PARENT, capture_output=True, text=True, check=False)
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    reason = f"cannot be loaded (status {done.returncode}): {said}. Install Netlathe into a fresh virtual environment"
    return Check(f"import {module}", done.returncode == 0, reason if done.returncode else "loads")


def _tried(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except expected_errors() as error:
        return Check(name, False, sentence(error))


def _target() -> str:
    from targets.registry import get_target

    found = get_target("x86")
    return f"{found.cpu_model}, LLVM's {found.mcpu}, {found.vector_bits}-bit vectors, {found.cores} cores"


def _compile_and_run() -> str:
    """One small block through everything that a network goes through."""
    from pipeline.agreement import compare, onnx_reference, random_image, tolerance
    from pipeline.plain_c import write_plain_c
    from targets.registry import get_target
    from tvm_latency.build import compile_onnx
    from tvm_latency.loaded import LoadedNetwork
    from tvm_latency.onnx_graph import input_shape, network_graph
    from tvm_latency.opspec import OpSpec

    op = OpSpec(kind="mbconv", height=8, width=8, in_channels=16, out_channels=16, kernel=3, expand=3)
    model = network_graph([op])
    with TemporaryDirectory() as folder:
        compiled, reference = compile_onnx(model, get_target("x86")), onnx_reference(model)
        library = compiled.export(Path(folder) / "block.so")
        image = random_image(input_shape(op))
        found = compare(LoadedNetwork(library), reference, [image], "the ONNX reference", tolerance(model))
        notes: list[str] = []
        write_plain_c(compiled, Path(folder), "block", reference, tolerance(model), notes.append)
    return " ".join([f"a block agrees with {found.against} to {found.max_abs_error:.1e}.", *notes])
