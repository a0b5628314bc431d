"""The code of kernels: one object file each, compiled side by side, and remembered, on disk too."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tvm
from joblib import Memory
from platformdirs import user_cache_path
from tvm_ffi import StructuralKey

from targets.target import Target
from tvm_latency.single_call import NETWORK, caller, code_of

# TVM's options for all code, and for kernels: LLVM finds common subexpressions itself, and TVM's search takes a tenth
# of the compile time; what a kernel is called with was checked at the door of the network.
OPTIONS = {"tirx.disable_cse_tir": True}
_KERNEL_OPTIONS = {"tirx.disable_assert": True}

# What a process remembers, some 10 KiB each: a space has a few hundred.
REMEMBERED = 2048
# What all processes of a user do, of what was used last.
KEPT_BYTES = 256 * 2**20


@dataclass(frozen=True)
class KernelCode:
    """An object file, and the most bytes that a call allocates, on each thread."""

    object: bytes
    scratch_bytes: int


def kernels_apart(module: Any, target: Target, pool: Executor) -> tuple[Any, Sequence[Future[KernelCode]]]:
    """The module with callers of its kernels in place of these, and their code, which `pool` compiles meanwhile.

    Where no `network` calls the kernels, the module stays as it is.
    """
    functions = dict(module.functions_items())
    if NETWORK not in (var.name_hint for var in functions):
        return module, ()
    kernels = {var.name_hint: f for var, f in functions.items() if var.name_hint not in ("main", NETWORK)}
    # Contexts belong to threads: what is asked of this one is handed on.
    context = tvm.transform.PassContext.current()
    options = tuple(sorted({**context.config, **OPTIONS, **_KERNEL_OPTIONS}.items()))
    code = [
        pool.submit(_code, name, StructuralKey(f), target, context.opt_level, options) for name, f in kernels.items()
    ]
    replaced = {var: caller(f, var.name_hint) if var.name_hint in kernels else f for var, f in functions.items()}
    return tvm.IRModule(replaced, attrs=module.attrs), code


@lru_cache(REMEMBERED)
def _code(
    name: str, kernel: StructuralKey, target: Target, opt_level: int, options: tuple[tuple[str, Any], ...]
) -> KernelCode:
    """Compile a kernel, unless this or an earlier process did: the networks of a space share most of theirs."""
    function = kernel.key.with_attr("global_symbol", code_of(name))
    digest = blake2b(tvm.ir.save_json(function).encode()).hexdigest()
    work = (target.tvm_attributes(), opt_level, dict(options), digest, version("apache-tvm"), function)
    try:
        memory = Memory(user_cache_path("netlathe", appauthor=False), verbose=0)
    except OSError:
        # Nowhere to keep anything: no reason not to compile.
        return KernelCode(*_compile(*work))
    known = memory.cache(_compile, ignore=["function"])
    if not known.check_call_in_cache(*work):
        _make_room(memory.location)
    return KernelCode(*known(*work))


@lru_cache
def _make_room(folder: Path) -> None:
    """Forget what was not used for longest; once in a process that has something to add."""
    Memory(folder, verbose=0).reduce_size(KEPT_BYTES)


def _compile(
    attributes: dict[str, Any], opt_level: int, options: dict[str, Any], digest: str, tvm_version: str, function: Any
) -> tuple[bytes, int]:
    """The object file of a function, and the most bytes that a call allocates. All else but `function` tells apart."""
    scratch = _Scratch()
    context = tvm.transform.PassContext(opt_level, instruments=[scratch], config=options)
    module = tvm.IRModule({function.attrs["global_symbol"]: function})
    with TemporaryDirectory() as folder, context:
        file = Path(folder) / "kernel.o"
        tvm.tirx.build(module, tvm.target.Target(attributes), pipeline="default").write_to_file(str(file))
        return file.read_bytes(), scratch.bytes


@tvm.instrument.pass_instrument
class _Scratch:
    """The most bytes that any of the functions allocates which are compiled while it looks on."""

    def __init__(self) -> None:
        self.bytes = 0

    def run_before_pass(self, module: Any, info: Any) -> None:
        if info.name == "tirx.LowerTVMBuiltin":
            allocated = tvm.s_tir.analysis.calculate_allocated_bytes(module)
            self.bytes = max([self.bytes, *(sum(scopes.values()) for scopes in allocated.values())])
