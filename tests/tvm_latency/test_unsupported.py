"""Operators next to those that our kernels take: each is right, by a kernel or a fallback, or is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from targets.registry import get_target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.lower import LoweringError, lower
from tvm_latency.unsupported import unsupported

pytestmark = pytest.mark.compiles

TARGET = get_target("x86")
IMAGE = (1, 8, 9, 9)
Shape = tuple[int, ...]


def weights(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(dtype)


def model(nodes: list[onnx.NodeProto], dtype: Any = np.float32, /, *, x: Shape, **constants: np.ndarray) -> Any:
    """From the input `x` to the output `y`; whatever else the nodes read is a constant."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    untyped = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=10)
    typed = onnx.shape_inference.infer_shapes(untyped)
    typed.graph.output[0].type.tensor_type.shape.SetInParent()  # a malformed model has none
    return typed


def one(kind: str, dtype: Any = np.float32, /, *, x: Shape, w: Shape | None = None, **attributes: Any) -> Any:
    """A model of one node, with constant weights where it has any."""
    constants = {} if w is None else {"w": weights(*w, dtype=dtype)}
    return model([helper.make_node(kind, ["x", *constants], ["y"], **attributes)], dtype, x=x, **constants)


def conv(x: Shape = IMAGE, w: Shape = (8, 8, 3, 3), dtype: Any = np.float32, **attributes: Any) -> Any:
    return one("Conv", dtype, x=x, w=w, **attributes)


def pool(kind: str, x: Shape = IMAGE, **attributes: Any) -> Any:
    return one(kind, x=x, **attributes)


def mean(axes: tuple[int, ...], x: Shape = (2, 3, 4, 5), **attributes: Any) -> Any:
    node = helper.make_node("ReduceMean", ["x", "axes"], ["y"], **attributes)
    return model([node], x=x, axes=np.array(axes, np.int64))


def then(first: onnx.NodeProto, kind: str, *others: str, x: Shape, **constants: np.ndarray) -> Any:
    """`first`, which answers `c`, and behind it a node that reads it."""
    return model([first, helper.make_node(kind, ["c", *others], ["y"])], x=x, **constants)


CONV = helper.make_node("Conv", ["x", "w"], ["c"])
GEMM = helper.make_node("Gemm", ["x", "w", "b"], ["c"])
GEMM_WEIGHTS = {"w": weights(4, 5), "b": weights(5)}

# Nothing of ours may take these: what runs is TVM's own code.
FALLBACKS = {
    "dilation": conv(dilations=[2, 2], pads=[2, 2, 2, 2]),
    "uneven dilation": conv(dilations=[2, 1]),
    "2 groups": conv(w=(8, 4, 3, 3), group=2, pads=[1, 1, 1, 1]),
    "groups of 2": conv(w=(12, 2, 3, 3), group=4),
    "depthwise, 2 outputs a channel": conv(w=(16, 1, 3, 3), group=8),
    "padding at two sides": conv(pads=[1, 0, 0, 1]),
    "padding above and below": conv(pads=[1, 0, 1, 0]),
    "strides that differ": conv(strides=[2, 1], pads=[1, 1, 1, 1]),
    "1-D convolution": conv(x=(1, 8, 9), w=(8, 8, 3), pads=[1, 1]),
    "3-D convolution": conv(x=(1, 4, 5, 5, 5), w=(4, 4, 3, 3, 3), pads=[1] * 6),
    "float64 convolution": conv(dtype=np.float64),
    "float16 convolution": conv(dtype=np.float16),
    "float64 mean": one("GlobalAveragePool", np.float64, x=IMAGE),
    "float16 mean": one("GlobalAveragePool", np.float16, x=IMAGE),
    "float64 product": one("MatMul", np.float64, x=(3, 4), w=(4, 5)),
    "transposed": one("ConvTranspose", x=(1, 8, 5, 5), w=(8, 6, 3, 3), strides=[2, 2], pads=[1] * 4),
    "transposed, padded output": one(
        "ConvTranspose", x=(1, 8, 5, 5), w=(8, 3, 3, 3), strides=[2, 2], group=2, output_padding=[1, 1]
    ),
    "transposed, dilated": one("ConvTranspose", x=(1, 8, 5, 5), w=(8, 6, 3, 3), dilations=[2, 2]),
    "transposed, 1-D": one("ConvTranspose", x=(1, 8, 5), w=(8, 6, 3), strides=[2]),
    "weights that are computed": model(
        [helper.make_node("Transpose", ["x"], ["w"], perm=[0, 1, 3, 2]), helper.make_node("Conv", ["x", "w"], ["y"])],
        x=(8, 8, 3, 3),
    ),
    "3-D product": one("MatMul", x=(2, 3, 4), w=(4, 5)),
    "3-D product, 3-D weights": one("MatMul", x=(2, 3, 4), w=(2, 4, 5)),
    "product with 3-D weights": one("MatMul", x=(3, 4), w=(2, 4, 5)),
    "product with a vector": one("MatMul", x=(3, 4), w=(4,)),
    "product of a vector": one("MatMul", x=(4,), w=(4, 5)),
    "constant on the left": model([helper.make_node("MatMul", ["w", "x"], ["y"])], x=(4, 3), w=weights(5, 4)),
    "maximum": pool("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "maximum, ceiling": pool("MaxPool", x=(1, 8, 8, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "maximum, dilated": pool("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    "maximum, all": pool("GlobalMaxPool"),
    "average": pool("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "average, padding counted": pool("AveragePool", kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1),
    "average, ceiling": pool("AveragePool", x=(1, 8, 8, 8), kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "average, dilated": pool("AveragePool", kernel_shape=[2, 2], dilations=[2, 2]),
    "average, all": pool("AveragePool", kernel_shape=[9, 9]),
    "average, 1-D": pool("AveragePool", x=(1, 8, 9), kernel_shape=[3]),
    "mean, 1-D": pool("GlobalAveragePool", x=(1, 8, 9)),
    "mean, 3-D": pool("GlobalAveragePool", x=(1, 8, 3, 4, 5)),
    "mean of channels": mean((1,)),
    "mean of rows": mean((2,)),
    "mean of columns": mean((-1,)),
    "mean of pixels, channels last": mean((1, 2)),
    "mean of all but the batch": mean((1, 2, 3)),
    "mean of everything": one("ReduceMean", x=(2, 3, 4, 5)),
    "mean of axes 2 and 3 of 5": mean((2, 3), x=(2, 3, 4, 5, 4)),
    "mean of none": mean((), noop_with_empty_axes=1),
}

# A kernel takes a part; what stands behind it is another's.
KERNELS = {
    "mean of pixels": mean((-1, -2)),
    "mean of pixels without keepdims": mean((3, 2), keepdims=0),
    "even size, same padding": conv(x=(1, 8, 8, 8), strides=[2, 2], auto_pad="SAME_UPPER"),
    "even size, same padding, lower": conv(x=(1, 8, 8, 8), strides=[2, 2], auto_pad="SAME_LOWER"),
    "same padding": conv(strides=[2, 2], auto_pad="SAME_UPPER"),
    "no padding": conv(auto_pad="VALID"),
    "stride 3": conv(x=(1, 8, 10, 10), strides=[3, 3]),
    "2x4 kernel": conv(w=(8, 8, 2, 4)),
    "padding beyond the kernel": conv(x=(1, 8, 5, 5), pads=[5] * 4),
    "scaled product": one("Gemm", x=(3, 4), w=(4, 5), alpha=0.5),
    "transposed product": one("Gemm", x=(4, 3), w=(5, 4), transA=1, transB=1),
    "product, bias for each row": then(GEMM, "Identity", x=(3, 4), w=weights(4, 5), b=weights(3, 1)),
    "product, bias for each element": then(GEMM, "Identity", x=(3, 4), w=weights(4, 5), b=weights(3, 5)),
    "product and sigmoid": then(GEMM, "Sigmoid", x=(3, 4), **GEMM_WEIGHTS),
    "product and softmax": then(GEMM, "Softmax", x=(3, 4), **GEMM_WEIGHTS),
    "product and residual": then(GEMM, "Add", "x", x=(5, 5), w=weights(5, 5), b=weights(5)),
    "product and scale": then(GEMM, "Mul", "s", x=(3, 4), s=weights(5), **GEMM_WEIGHTS),
    "convolution and sigmoid": then(CONV, "Sigmoid", x=IMAGE, w=weights(8, 8, 1, 1)),
    "scale of higher rank": then(CONV, "Mul", "s", x=IMAGE, w=weights(8, 8, 1, 1), s=weights(1, 1, 1, 1, 1)),
    "scale for each image": then(CONV, "Mul", "s", x=IMAGE, w=weights(8, 8, 1, 1), s=weights(3, 1, 1, 1)),
    "scale for each column": then(CONV, "Mul", "s", x=(1, 4, 4, 4), w=weights(4, 4, 1, 1), s=weights(4)),
    "bias for each column": then(CONV, "Add", "b", x=(1, 4, 4, 4), w=weights(4, 4, 1, 1), b=weights(4)),
    "bias for each row": then(CONV, "Add", "b", x=(1, 4, 4, 4), w=weights(4, 4, 1, 1), b=weights(4, 1)),
    "channels from a scale": then(CONV, "Mul", "s", x=IMAGE, w=weights(1, 8, 1, 1), s=weights(5, 1, 1)),
    "bounds the wrong way round": then(
        CONV, "Clip", "low", "high", x=IMAGE, w=weights(8, 8, 1, 1), low=np.float32(2), high=np.float32(1)
    ),
    "no lower bound": then(CONV, "Clip", "", "high", x=IMAGE, w=weights(8, 8, 1, 1), high=np.float32(0.5)),
}


def expected_of(graph: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What ONNX Runtime answers; the reference of ONNX where it has no code for the type, which it says."""
    try:
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return ReferenceEvaluator(graph).run(None, {"x": x})[0]
    return session.run(None, {"x": x})[0]


def check(graph: onnx.ModelProto) -> Compiled:
    tensor = graph.graph.input[0].type.tensor_type
    dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    x = np.random.default_rng(0).standard_normal([d.dim_value for d in tensor.shape.dim]).astype(dtype)
    expected = expected_of(graph, x)
    compiled = compile_onnx(graph, TARGET)
    got = compiled.load()(tvm.runtime.tensor(x)).numpy()
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    # No sum has more terms than the input has elements; each node rounds once more.
    rounding = (np.sqrt(x.size) + len(graph.graph.node)) * np.finfo(dtype).eps
    np.testing.assert_allclose(got, expected, rtol=0, atol=rounding * max(1, abs(expected).max()))
    return compiled


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_no_kind_takes_falls_back_and_is_right(name: str) -> None:
    assert check(FALLBACKS[name]).kernels == ()


@pytest.mark.parametrize("name", KERNELS)
def test_what_a_kind_takes_in_part_is_right(name: str) -> None:
    assert len(check(KERNELS[name]).kernels) == 1


def dynamic(graph: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a batch that is known at run time."""
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    return graph


REFUSED = {
    "output_shape": (
        one("ConvTranspose", x=(1, 8, 5, 5), w=(8, 6, 3, 3), strides=[2, 2], output_shape=[10, 10]),
        "ConvTranspose asks for an output_shape",
    ),
    "negative padding": (conv(pads=[-1] * 4, name="shrink"), "Conv 'shrink' has negative padding"),
    "negative padding of a pool": (
        pool("MaxPool", kernel_shape=[3, 3], pads=[-1] * 4),
        "MaxPool has negative padding",
    ),
    "no image": (conv(x=(0, 8, 9, 9)), "Input 'x' has a size of 0"),
    "no pixel": (pool("GlobalAveragePool", x=(1, 8, 0, 9)), "Input 'x' has a size of 0"),
    "no output channel": (conv(w=(0, 8, 3, 3)), "Conv has weights with a size of 0"),
    "no column": (one("MatMul", x=(3, 4), w=(4, 0)), "MatMul has weights with a size of 0"),
    "kernel larger than the image": (conv(x=(1, 8, 2, 2), w=(8, 8, 5, 5)), "Invalid conv parameters"),
    "channels that differ": (conv(w=(8, 7, 3, 3)), "channel size of the data should equal"),
    "groups that do not divide": (conv(w=(9, 4, 3, 3), group=2), "Conv2d expects .* divisible by the number of groups"),
    "rows and columns that differ": (one("MatMul", x=(3, 4), w=(6, 5)), "reduction dimensions"),
    "batch known at run time": (dynamic(conv()), "Input 'x' has no static shape"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_compiled_is_refused_with_its_name(name: str) -> None:
    graph, said = REFUSED[name]
    with pytest.raises(LoweringError, match=said):
        lower(graph, TARGET)


def test_weights_that_are_an_input_fall_back() -> None:
    graph = conv()
    del graph.graph.initializer[:]
    graph.graph.input.append(helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, (8, 8, 3, 3)))
    compiled = compile_onnx(graph, TARGET)
    assert compiled.kernels == ()
    feeds = {"x": weights(*IMAGE), "w": weights(8, 8, 3, 3)}
    expected = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, feeds)[0]
    got = compiled.load()(*map(tvm.runtime.tensor, feeds.values())).numpy()
    bound = (8 * 9 + 1) * np.finfo(np.float32).eps * abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=bound)


def test_negative_amounts_of_a_pad_operator_are_no_padding_of_a_convolution() -> None:
    """`Pad` may crop: only convolutions and pools may not. Before opset 11 its amounts were an attribute."""
    node = helper.make_node("Pad", ["x"], ["y"], pads=[0, 0, -1, -1, 0, 0, -1, -1])
    assert unsupported(helper.make_graph([node], "g", [], [])) is None
