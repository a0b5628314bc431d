"""Compile a lowered model into a shared library that TVM's runtime loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import tvm
from tvm.tirx.compilation_pipeline import register_tir_pipeline
from tvm.tirx.transform import SkipAssert

from targets.host import available_cpus
from targets.target import Target
from targets.toolchain import find_toolchain
from tvm_latency.loaded import load_main
from tvm_latency.lower import Lowered, compiler_errors, lower
from tvm_latency.network_plan import NetworkPlan
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec, WeightType
from tvm_latency.single_call import NETWORK, caller, code_of

# Few, so that all cores stay busy.
KERNELS_PER_OBJECT = 2


@dataclass(frozen=True)
class Compiled:
    """A compiled network. `main` of the executable takes and answers float32 tensors in the model's own layout.

    objects: the kernels, as object files that it calls; it runs once all is linked. plan: in which order, None where
        there is more to a network than kernels, and no objects are. scratch_bytes: the most that a kernel allocates, on
        each thread.
    """

    executable: Any
    objects: tuple[bytes, ...]
    scratch_bytes: int
    plan: NetworkPlan | None
    target: Target
    kernels: tuple[str, ...]
    fallbacks: tuple[str, ...]

    def export(self, path: Path) -> Path:
        """Link everything, weights included, into one shared library.

        Raises:
            ToolchainError: no linker, or it failed.
        """
        with TemporaryDirectory() as folder:
            files = [Path(folder) / f"kernels{number}.o" for number in range(len(self.objects))]
            for file, code in zip(files, self.objects, strict=True):
                file.write_bytes(code)
            toolchain = find_toolchain(self.target)
            self.executable.export_library(str(path), fcompile=toolchain, addons=[str(file) for file in files])
        return path

    def load(self) -> Callable[..., Any]:
        """`main` in this process, a function of TVM's tensors.

        Raises:
            ToolchainError: see `export`.
        """
        with TemporaryDirectory() as folder:
            return load_main(self.export(Path(folder) / "network.so"))


@tvm.transform.module_pass(opt_level=0, name="TrustNetwork")
def _trust_network(module: Any, _: Any) -> Any:
    """Drop what checks a function's arguments where only `network` calls it, whose own arguments are checked."""
    functions = {var: f for var, f in module.functions_items() if var.name_hint != NETWORK}
    if len(functions) < len(module.functions):
        module.update(SkipAssert()(tvm.IRModule(functions, attrs=module.attrs)))
    return module


def _pipeline() -> tuple[Any, Any, Any]:
    lower_functions, *finalize = tvm.tirx.get_tir_pipeline("default")
    return tvm.transform.Sequential([lower_functions, _trust_network]), *finalize


register_tir_pipeline("netlathe", _pipeline)


def compile_onnx(
    model: onnx.ModelProto,
    target: Target,
    weights: WeightType = "float32",
    finish: Callable[[Lowered], Lowered] | None = None,
) -> Compiled:
    """Lower and compile; the kernels' weights are stored as `weights`, and `finish` may replace functions in between.

    Raises:
        LoweringError: see `tvm_latency.lower.lower`; or TVM cannot compile what it lowered.
    """
    lowered = lower(model, target, weights)
    if finish is not None:
        lowered = finish(lowered)
    attributes = tvm.target.Target(target.tvm_attributes())
    # TVM and LLVM leave Python's lock while they work.
    with compiler_errors("compiled"), ThreadPoolExecutor(len(available_cpus())) as pool:
        scratch = _Scratch()
        module, objects = _kernels_apart(lowered.module, attributes, pool, scratch)
        with _context():
            executable = tvm.compile(module, attributes, relax_pipeline="default_build", tir_pipeline="netlathe")
        linked = tuple(objects)
        return Compiled(executable, linked, scratch.bytes, lowered.plan, target, lowered.kernels, lowered.fallbacks)


@tvm.instrument.pass_instrument
class _Scratch:
    """The most bytes that any of the functions allocates which are compiled while it looks on."""

    def __init__(self) -> None:
        # Threads compile at once, and add to a list without losing anything of each other's.
        self._found = [0]

    @property
    def bytes(self) -> int:
        return max(self._found)

    def run_before_pass(self, module: Any, info: Any) -> None:
        if info.name == "tirx.LowerTVMBuiltin":
            allocated = tvm.s_tir.analysis.calculate_allocated_bytes(module)
            self._found += [sum(scopes.values()) for scopes in allocated.values()]


def _kernels_apart(module: Any, attributes: Any, pool: Executor, scratch: _Scratch) -> tuple[Any, Iterable[bytes]]:
    """The module with callers of its kernels in place of these, and the kernels as object files that `pool` makes.

    Where no `network` calls the kernels, the module stays as it is.
    """
    functions = dict(module.functions_items())
    if NETWORK not in (var.name_hint for var in functions):
        return module, ()
    kernels = [(var.name_hint, f) for var, f in functions.items() if var.name_hint not in ("main", NETWORK)]
    # Contexts belong to threads: each part gets its own, made here.
    parts = [
        (kernels[first : first + KERNELS_PER_OBJECT], _context(scratch, **{"tirx.disable_assert": True}))
        for first in range(0, len(kernels), KERNELS_PER_OBJECT)
    ]

    def compiled(part: tuple[Sequence[tuple[str, Any]], Any]) -> bytes:
        code = {code_of(name): f.with_attr("global_symbol", code_of(name)) for name, f in part[0]}
        with TemporaryDirectory() as folder, part[1]:
            file = Path(folder) / "kernels.o"
            tvm.tirx.build(tvm.IRModule(code), attributes, pipeline="default").write_to_file(str(file))
            return file.read_bytes()

    objects = pool.map(compiled, parts)
    callers = {name: caller(f, name) for name, f in kernels}
    replaced = {var: callers.get(var.name_hint, f) for var, f in functions.items()}
    return tvm.IRModule(replaced, attrs=module.attrs), objects


def _context(*instruments: Any, **config: Any) -> Any:
    """The caller's options for TVM, and `config`; `instruments` look on.

    LLVM finds common subexpressions itself; TVM's search takes a tenth of the compile time.
    """
    context = tvm.transform.PassContext.current()
    config = {**context.config, "tirx.disable_cse_tir": True, **config}
    return tvm.transform.PassContext(context.opt_level, instruments=list(instruments), config=config)


def compile_ops(ops: Sequence[OpSpec], target: Target) -> Compiled:
    """Compile operators in sequence, with random weights that are stored as the operators say.

    Raises:
        LoweringError: see `compile_onnx`.
        ValueError: the operators do not agree on that.
    """
    return compile_onnx(network_graph(ops), target, ops[0].dtype)
