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
from tvm_ffi import StructuralKey

from targets.target import Target
from tvm_latency.code_store import cache_folder, kept
from tvm_latency.single_call import NETWORK, caller, code_of

# TVM's options for all code, and for kernels: LLVM finds common subexpressions itself, and TVM's search takes a tenth
# of the compile time; what a kernel is called with was checked at the door of the network.
OPTIONS = {"tirx.disable_cse_tir": True}
_KERNEL_OPTIONS = {"tirx.disable_assert": True}

# What a process remembers, some 10 KiB each: a space has a few hundred.
REMEMBERED = 2048
# What all processes of a user do, of what was used last.
KEPT_BYTES = 256 * 2**20
# What is done here decides the code too.
_THIS_CODE = blake2b(Path(__file__).read_bytes()).hexdigest()


@dataclass(frozen=True)
class KernelCode:
    """An object file, and the most bytes that a call allocates, on each thread."""

    object: bytes
    scratch_bytes: int

    def to_bytes(self) -> bytes:
        """For a file."""
        return self.scratch_bytes.to_bytes(8, "little") + self.object

    @classmethod
    def from_bytes(cls, content: bytes) -> KernelCode:
        """What `to_bytes` made."""
        return cls(content[8:], int.from_bytes(content[:8], "little"))


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
    """Compile a kernel, unless this or an earlier process did: the networks of a space share most of theirs.

    Raises:
        Whatever TVM raises: see `tvm_latency.lower.compiler_errors`.
    """
    function = kernel.key.with_attr("global_symbol", code_of(name))
    attributes = target.tvm_attributes()
    facts = (_THIS_CODE, version("apache-tvm"), sorted(attributes.items()), opt_level, options)
    digest = blake2b(f"{facts} {tvm.ir.save_json(function)}".encode(), digest_size=20).hexdigest()

    def compiled() -> bytes:
        return _compile(function, attributes, opt_level, dict(options)).to_bytes()

    return KernelCode.from_bytes(kept(cache_folder("kernels"), digest, compiled, KEPT_BYTES))


def _compile(function: Any, attributes: dict[str, Any], opt_level: int, options: dict[str, Any]) -> KernelCode:
    scratch = _Scratch()
    context = tvm.transform.PassContext(opt_level, instruments=[scratch], config=options)
    module = tvm.IRModule({function.attrs["global_symbol"]: function})
    with TemporaryDirectory() as folder, context:
        file = Path(folder) / "kernel.o"
        tvm.tirx.build(module, tvm.target.Target(attributes), pipeline="default").write_to_file(str(file))
        return KernelCode(file.read_bytes(), scratch.bytes)


@tvm.instrument.pass_instrument
class _Scratch:
    """The most bytes that any of the functions allocates which are compiled while it looks on."""

    def __init__(self) -> None:
        self.bytes = 0

    def run_before_pass(self, module: Any, info: Any) -> None:
        if info.name == "tirx.LowerTVMBuiltin":
            allocated = tvm.s_tir.analysis.calculate_allocated_bytes(module)
            self.bytes = max([self.bytes, *(sum(scopes.values()) for scopes in allocated.values())])
