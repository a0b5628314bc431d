"""A kernel for a GPU as data: the text of its device functions, and how each is launched."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tvm
from tvm import tirx
from tvm.tirx.build import codegen_build
from tvm_ffi import structural_walk

from targets.target import Target

_AXES = ("x", "y", "z")
# The pass after which a host function unpacks its operands and does not name them any more, and two that need it: no
# kernel has numbers of these types.
_LEFT_OUT = ("tirx.MakePackedAPI", "tirx.FP8StorageLegalize", "tirx.BF16StorageLegalize")
_DYNAMIC_SHARED = "tirx.use_dyn_shared_memory"


@dataclass(frozen=True)
class Launch:
    """A device function over a grid of blocks of threads.

    operands: which of the kernel's operands are its arguments, in order. shared_bytes: beyond what the function itself
    declares.
    """

    function: str
    operands: tuple[int, ...]
    blocks: tuple[int, int, int]
    threads: tuple[int, int, int]
    shared_bytes: int = 0


@dataclass(frozen=True)
class DeviceCode:
    """CUDA C++, and its functions in the order in which they run."""

    text: str
    launches: tuple[Launch, ...]


@tvm.instrument.pass_instrument
class _HostAsItIs:
    """Leaves passes out."""

    def should_run(self, module: Any, info: Any) -> bool:
        return str(info.name) not in _LEFT_OUT


def device_code(function: Any, name: str, target: Target) -> DeviceCode:
    """What a scheduled function becomes; its device functions' names begin with `name`.

    Raises:
        ValueError: it does more than launch kernels on its operands one after the other: memory between them, values
            that are known only at run time.
        Whatever TVM raises: see `tvm_latency.lower.compiler_errors`.
    """
    attributes = tvm.target.Target(target.tvm_attributes())
    function, pipeline = _as_tvm_expects(function.with_attr("global_symbol", name))
    module = tirx.transform.BindTarget(attributes)(tvm.IRModule({name: function}))
    context = tvm.transform.PassContext.current()
    outside = tvm.transform.PassContext(context.opt_level, instruments=[_HostAsItIs()], config=context.config)
    lower, _, finalize = tirx.get_tir_pipeline(pipeline)
    with outside:
        functions = dict(lower(module).functions_items())
        ((host_name, host),) = [(var, f) for var, f in functions.items() if var.name_hint == name]
        del functions[host_name]
        text = codegen_build(finalize()(tvm.IRModule(functions)), attributes).inspect_source("cuda")
    return DeviceCode(text, _launches(host))


def _as_tvm_expects(function: Any) -> tuple[Any, str]:
    """The function, and the name of TVM's passes for it: kernels of ours are written out, with their barriers."""
    if function.attrs.get("netlathe.written_out"):
        return function.with_body(function.body.block.body), "tirx"
    return function, "default"


def _launches(host: Any) -> tuple[Launch, ...]:
    """Of a host function, one after the other."""
    # Views of a parameter have another shape, and lead to it.
    origin: dict[Any, Any] = {}
    found: list[Launch] = []

    def root(buffer: Any) -> Any:
        while buffer in origin:
            buffer = origin[buffer]
        return buffer

    def view(node: Any) -> None:
        if isinstance(node.data, tvm.ir.Call):
            origin[node.buffer] = node.data.args[0]

    def call(node: Any) -> None:
        if node.op == tvm.ir.Op.get("tirx.call_ffi_kernel"):
            found.append(_launch(node, parameters, root))

    def more(node: Any) -> None:
        name = host.attrs["global_symbol"]
        raise ValueError(f"{name} does more than launch kernels ({type(node).__name__}).")

    parameters = list(host.params)
    not_launches = (tirx.For, tirx.While, tirx.IfThenElse, tirx.BufferStore)
    walked = [(tirx.DeclBuffer, view), (tvm.ir.Call, call), *((kind, more) for kind in not_launches)]
    structural_walk(host.body, walked)
    return tuple(found)


def _launch(call: Any, parameters: list[Any], root: Any) -> Launch:
    function, *arguments = call.args
    tags = list(call.attrs.launch_params)
    extents = dict(zip(tags, arguments[len(arguments) - len(tags) :], strict=True))
    tensors = arguments[: len(arguments) - len(tags)]
    if not all(isinstance(tensor, tvm.ir.Call) for tensor in tensors):
        raise ValueError(f"{function.value} takes a number that is known only at run time.")
    operands = [root(tensor.args[0]) for tensor in tensors]
    if any(operand not in parameters for operand in operands):
        raise ValueError(f"{function.value} needs memory of its own beside its operands.")
    if any(not isinstance(extent, tirx.IntImm) for extent in extents.values()):
        raise ValueError(f"How {function.value} is launched depends on values that are known only at run time.")

    def size(kind: str) -> tuple[int, int, int]:
        x, y, z = (int(extents.get(f"{kind}.{axis}", 1)) for axis in _AXES)
        return x, y, z

    return Launch(
        function=str(function.value),
        operands=tuple(parameters.index(operand) for operand in operands),
        blocks=size("blockIdx"),
        threads=size("threadIdx"),
        shared_bytes=int(extents.get(_DYNAMIC_SHARED, 0)),
    )
