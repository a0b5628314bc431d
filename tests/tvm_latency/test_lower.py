"""From ONNX to compiled code: the same answers as ONNX Runtime, by our kernels, or by a fallback that is named."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from targets.registry import get_target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.lower import LoweringError, compiler_errors, lower
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec

pytestmark = pytest.mark.compiles

TARGET = get_target("x86")


def outputs(model: onnx.ModelProto, compiled: Compiled) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime and the compiled network answer to the same random input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    node = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal(node.shape).astype(np.float32)
    return session.run(None, {node.name: x})[0], compiled.load()(tvm.runtime.tensor(x)).numpy()


def assert_same(model: onnx.ModelProto, compiled: Compiled, reduction: int) -> None:
    """Equal up to rounding: both sides add at most `reduction` terms in each of the layers."""
    expected, got = outputs(model, compiled)
    assert expected.shape == got.shape
    tolerance = len(model.graph.node) * np.sqrt(reduction) * np.finfo(np.float32).eps * abs(expected).max()
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance)


def small_network() -> list[OpSpec]:
    def mbconv(size: int, i: int, o: int, **rest: int) -> OpSpec:
        return OpSpec(kind="mbconv", height=size, width=size, in_channels=i, out_channels=o, **rest)

    return [
        OpSpec(kind="conv", height=17, width=17, in_channels=3, out_channels=8, kernel=3, stride=2),
        mbconv(9, 8, 8, kernel=3),
        mbconv(9, 8, 12, kernel=5, stride=2, expand=3),
        mbconv(5, 12, 12, kernel=7, expand=6),
        OpSpec(kind="conv", height=5, width=5, in_channels=12, out_channels=40),
        OpSpec(kind="pool", height=5, width=5, in_channels=40, out_channels=40),
        OpSpec(kind="linear", height=1, width=1, in_channels=40, out_channels=10),
    ]


def test_a_whole_network_runs_on_our_kernels_alone() -> None:
    model = network_graph(small_network())
    compiled = compile_onnx(model, TARGET)
    assert compiled.fallbacks == ()
    # stem; three blocks; head, pool, linear
    assert len(compiled.kernels) == 1 + 3 + 3
    assert_same(model, compiled, reduction=12 * 6)


@pytest.mark.parametrize("op", small_network(), ids=lambda op: op.key)
def test_every_op_takes_the_path_of_the_network(op: OpSpec) -> None:
    model = network_graph([op])
    compiled = compile_onnx(model, TARGET)
    # Nothing but kernels, no change of layout either: what an operator costs alone is what it costs in a network.
    assert compiled.fallbacks == ()
    assert_same(model, compiled, reduction=12 * 6)


def single_node(
    nodes: list[onnx.NodeProto], shape: list[int], out: list[int], **weights: np.ndarray
) -> onnx.ModelProto:
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
            [numpy_helper.from_array(value, name) for name, value in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def weights(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def test_a_batch_norm_folds_into_its_convolution() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], epsilon=1e-3),
        helper.make_node("Relu", ["n"], ["y"]),
    ]
    model = single_node(
        nodes,
        [1, 4, 9, 9],
        [1, 6, 9, 9],
        w=weights(6, 4, 3, 3),
        scale=weights(6),
        shift=weights(6),
        mean=weights(6),
        var=abs(weights(6)) + np.float32(0.5),
    )
    compiled = compile_onnx(model, TARGET)
    assert len(compiled.kernels) == 1
    assert all("transpose" in name for name in compiled.fallbacks)
    assert_same(model, compiled, reduction=36)


def test_a_residual_before_the_activation_is_part_of_the_kernel() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["x", "c"], ["a"]),
        helper.make_node("Relu", ["a"], ["y"]),
    ]
    model = single_node(nodes, [1, 8, 5, 5], [1, 8, 5, 5], w=weights(8, 8, 3, 3), b=weights(8))
    compiled = compile_onnx(model, TARGET)
    assert compiled.kernels[0].endswith("_res")
    assert_same(model, compiled, reduction=72)


def test_a_clip_between_convolution_and_residual_is_not_moved() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    model = single_node(nodes, [1, 8, 5, 5], [1, 8, 5, 5], w=weights(8, 8, 1, 1), b=weights(8))
    assert_same(model, compile_onnx(model, TARGET), reduction=8)


def test_a_result_that_is_read_twice_is_computed_before_its_activation() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Sub", ["c", "r"], ["y"]),
    ]
    model = single_node(nodes, [1, 8, 5, 5], [1, 8, 5, 5], w=weights(8, 8, 1, 1))
    assert_same(model, compile_onnx(model, TARGET), reduction=8)


@pytest.mark.parametrize(
    ("attributes", "out"),
    [
        ({"group": 2, "pads": [1, 1, 1, 1]}, [1, 8, 9, 9]),
        ({"dilations": [2, 2], "pads": [2, 2, 2, 2]}, [1, 8, 9, 9]),
        ({"pads": [1, 0, 0, 1]}, [1, 8, 8, 8]),
        ({"strides": [2, 1], "pads": [1, 1, 1, 1]}, [1, 8, 5, 9]),
    ],
    ids=["grouped", "dilated", "uneven padding", "uneven stride"],
)
def test_what_no_kind_takes_falls_back_by_name_and_is_right(attributes: dict[str, object], out: list[int]) -> None:
    w = weights(8, 8 // int(str(attributes.get("group", 1))), 3, 3)
    model = single_node([helper.make_node("Conv", ["x", "w"], ["y"], **attributes)], [1, 8, 9, 9], out, w=w)
    compiled = compile_onnx(model, TARGET)
    assert compiled.kernels == ()
    assert any("conv" in name for name in compiled.fallbacks)
    assert_same(model, compiled, reduction=72)


def test_a_batch_is_its_images_one_by_one() -> None:
    ops = small_network()
    batched = [OpSpec(**{**vars(op), "batch": 3}) for op in ops]
    one, three = (compile_onnx(network_graph(net), TARGET).load() for net in (ops, batched))
    images = np.random.default_rng(0).standard_normal((3, 3, 17, 17)).astype(np.float32)
    together = three(tvm.runtime.tensor(images)).numpy()
    alone = [one(tvm.runtime.tensor(image[None])).numpy()[0] for image in images]
    # Tiles differ, the order of additions within each sum does not.
    np.testing.assert_allclose(together, alone, rtol=0, atol=8 * np.finfo(np.float32).eps * abs(together).max())


# Epilogues that look like ours and are not: each has to be right, by whatever path.
def broadcast_residual() -> onnx.ModelProto:
    """A global context block: the sum is larger than what the convolution computes."""
    nodes = [
        helper.make_node("GlobalAveragePool", ["x"], ["p"]),
        helper.make_node("Conv", ["p", "w"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    return single_node(nodes, [1, 8, 5, 5], [1, 8, 5, 5], w=weights(8, 8, 1, 1))


def one_channel_residual() -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "x"], ["y"])]
    return single_node(nodes, [1, 8, 5, 5], [1, 8, 5, 5], w=weights(1, 8, 1, 1))


def bias_of_higher_rank() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "b"], ["y"])]
    return single_node(nodes, [2, 4], [1, 2, 3], w=weights(4, 3), b=weights(1, 1, 3))


def bias_for_each_pixel() -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "b"], ["y"])]
    return single_node(nodes, [1, 4, 5, 5], [1, 6, 5, 5], w=weights(6, 4, 1, 1), b=weights(1, 6, 5, 5))


def added_to_itself() -> onnx.ModelProto:
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Add", ["c", "c"], ["y"])]
    return single_node(nodes, [1, 4, 5, 5], [1, 6, 5, 5], w=weights(6, 4, 1, 1))


def two_clips_of_nearly_one_name() -> onnx.ModelProto:
    """Bounds that agree to six digits: two kernels, not one."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("Clip", ["c", "low", "higher"], ["y"]),
    ]
    bounds = {"low": np.float32(0), "high": np.float32(1.0000001), "higher": np.float32(1.0000002)}
    return single_node(nodes, [1, 4, 5, 5], [1, 4, 5, 5], w=10 * weights(4, 4, 1, 1), **bounds)


def transposes_without_axes() -> onnx.ModelProto:
    nodes = [helper.make_node("Transpose", ["x"], ["t"]), helper.make_node("Transpose", ["t"], ["y"])]
    return single_node(nodes, [1, 4, 5, 6], [1, 4, 5, 6])


def bias_in_double() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["x"], ["d"], to=TensorProto.DOUBLE),
        helper.make_node("Sub", ["d", "b"], ["s"]),
        helper.make_node("Cast", ["s"], ["y"], to=TensorProto.FLOAT),
    ]
    return single_node(nodes, [1, 4], [1, 4], b=weights(4).astype(np.float64))


def clip_with_attributes() -> onnx.ModelProto:
    """Clip as it was before opset 11, in every older MobileNet file."""
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"]), helper.make_node("Clip", ["c"], ["y"], min=0.0, max=6.0)]
    model = single_node(nodes, [1, 4, 5, 5], [1, 6, 5, 5], w=weights(6, 4, 1, 1))
    model.opset_import[0].version = 10
    return model


@pytest.mark.parametrize(
    "make",
    [
        broadcast_residual,
        one_channel_residual,
        bias_of_higher_rank,
        bias_for_each_pixel,
        added_to_itself,
        two_clips_of_nearly_one_name,
        transposes_without_axes,
        bias_in_double,
        clip_with_attributes,
    ],
)
def test_what_looks_like_an_epilogue_is_not_taken_for_one(make: Callable[[], onnx.ModelProto]) -> None:
    model = make()
    compiled = compile_onnx(model, TARGET)
    assert_same(model, compiled, reduction=8)
    if any(node.op_type in ("Conv", "MatMul") for node in model.graph.node):
        assert compiled.kernels, "what is left of the group still has a kernel"


def test_a_clip_with_attributes_is_part_of_the_kernel() -> None:
    assert "_clip0p0_6p0" in compile_onnx(clip_with_attributes(), TARGET).kernels[0]


def test_an_operator_nobody_lowers_is_named() -> None:
    node = helper.make_node("RandomUniformLike", ["x"], ["y"])
    with pytest.raises(LoweringError, match="RandomUniformLike"):
        lower(single_node([node], [1, 4], [1, 4]), TARGET)


def test_a_malformed_model_is_refused() -> None:
    with pytest.raises(LoweringError, match="cannot be imported"):
        lower(single_node([helper.make_node("Relu", ["nowhere"], ["y"])], [1, 4], [1, 4]), TARGET)


def test_an_unknown_size_is_refused() -> None:
    model = single_node([helper.make_node("Relu", ["x"], ["y"])], [1, 4], [1, 4])
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    with pytest.raises(LoweringError, match="static shape"):
        lower(model, TARGET)


def test_a_size_that_depends_on_values_is_refused() -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["n"]), helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT)]
    with pytest.raises(LoweringError, match=r"nonzero answers depends on values that are known only at run time"):
        lower(single_node(nodes, [1, 4], [2, 4]), TARGET)


@pytest.mark.parametrize(
    ("error", "said"),
    [(AssertionError(), "AssertionError"), (NotImplementedError("rank 6"), "rank 6"), (KeyError("axis"), "axis")],
)
def test_whatever_the_compiler_raises_is_a_lowering_error(
    error: Exception, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        print("the importer prints")
        raise error

    with pytest.raises(LoweringError, match=f"The ONNX model cannot be lowered: .*{said}"), compiler_errors("lowered"):
        fail()
    assert capsys.readouterr() == ("", "the importer prints\n")
