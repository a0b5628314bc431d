"""The whole network as one function, so that nothing stands between two kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as build

from tvm_latency.memory import ALIGNMENT
from tvm_latency.network_plan import NetworkPlan, Operand

NETWORK = "network"
# How TVM names functions in object files.
SYMBOL_PREFIX = "__tvm_ffi_"


def single_call(module: Any, plan: NetworkPlan, pointer_bits: int = 64) -> Any:
    """Replace `main`, a chain of kernel calls, by one call of one function that calls the kernels.

    main(x):                                          network(x, weights, y):
        a = call_tir(stem, x, w0, b0)                     stem(x, weights + 0, weights + 3456, memory + 0)
        b = call_tir(depthwise, a, w1, b1)       -->      depthwise(memory + 0, weights + 3584, ..., memory + 1605632)
        ...                                               ...

    TVM's virtual machine takes time for each call, among it that for making a tensor.
    """
    main = module["main"]
    kernels = {var: f for var, f in module.functions_items() if var.name_hint != "main"}
    builder = relax.BlockBuilder(tvm.IRModule(kernels, attrs=module.attrs))
    network = builder.add_func(_network(plan, [p.name for p in main.params], pointer_bits), NETWORK)
    params = [relax.Var(p.name, p.ty) for p in main.params]
    answer = relax.TensorType(plan.output.shape, plan.output.dtype)
    with builder.function("main", params, attrs=dict(main.attrs or {})):
        with builder.dataflow():
            result = builder.emit_output(relax.call_tir(network, [*params, relax.const(plan.weights, "uint8")], answer))
        builder.emit_func_output(result)
    return builder.get()


def _network(plan: NetworkPlan, names: Sequence[str], pointer_bits: int) -> Any:
    """network(inputs, weights, output): one call after the other, intermediates in one workspace."""
    with IRBuilder() as builder, build.prim_func():
        build.func_name(NETWORK)
        build.func_attr({"global_symbol": NETWORK, "tirx.is_scheduled": True})
        # Without `align`, LLVM takes for granted what is checked below.
        inputs = [
            build.arg(name, build.buffer(list(operand.shape), operand.dtype, align=1)).data
            for name, operand in zip(names, plan.inputs, strict=True)
        ]
        weights = build.arg("weights", build.buffer([plan.weights.size], "uint8")).data
        output = build.arg("output", build.buffer(list(plan.output.shape), plan.output.dtype)).data
        memory = build.alloc_buffer([plan.memory_bytes], "uint8").data
        places = {"weights": weights, "memory": memory, "output": output}

        def tensor(operand: Operand) -> Any:
            pointer = inputs[operand.number] if operand.place == "input" else places[operand.place]
            if operand.place in ("weights", "memory"):
                pointer = tirx.handle_add_byte_offset(pointer, operand.offset)
            return _tensor(pointer, operand.shape, operand.dtype)

        for name, pointer in zip(names, inputs):
            _check_alignment(name, pointer, pointer_bits)
        for step in plan.steps:
            build.evaluate(tirx.call_cpacked(step.kernel, *map(tensor, step.operands)))
    return builder.get()


def _check_alignment(name: str, pointer: Any, pointer_bits: int) -> None:
    """Refuse what other libraries may hand over: kernels load whole vectors from where TVM would have put a tensor."""
    mask = tirx.const(ALIGNMENT - 1, f"int{pointer_bits}")
    past = tirx.call_llvm_pure_intrin("handle", "llvm.ptrmask", pointer, mask)
    message = f"Input {name} must begin at a multiple of {ALIGNMENT} bytes. Copy it with tvm.runtime.tensor(array)."
    with build.Assert(tirx.isnullptr(past), message, "ValueError"):
        pass


def _tensor(pointer: Any, shape: Sequence[int], dtype: str) -> Any:
    sizes = tirx.tvm_stack_make_shape(*(tirx.const(size, "int64") for size in shape))
    return tirx.tvm_stack_make_array(pointer, sizes, 0, len(shape), dtype, 0)


def caller(kernel: Any, name: str) -> Any:
    """A function like the kernel `name` that calls it in another object file.

    TVM declares a function of another file anew for every call, and only the first has its name: so there is but one.
    """
    with IRBuilder() as builder, build.prim_func():
        build.func_name(name)
        build.func_attr({"global_symbol": name, "tirx.is_scheduled": True})
        shapes = [([int(size) for size in p.shape], str(p.dtype)) for p in kernel.params]
        arguments = [build.arg(f"a{i}", build.buffer(*shape)).data for i, shape in enumerate(shapes)]
        tensors = [_tensor(data, *shape) for data, shape in zip(arguments, shapes, strict=True)]
        build.evaluate(tirx.call_cpacked(SYMBOL_PREFIX + code_of(name), *tensors))
    return builder.get()


def code_of(name: str) -> str:
    """What a kernel is called in its own object file."""
    return f"{name}_code"
