"""From ONNX to compiled code: the same answers as ONNX Runtime, by our kernels, or by a fallback that is named."""

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from targets.target import get_target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.lower import LoweringError, lower
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec

pytestmark = pytest.mark.compiles

TARGET = get_target("x86")


def outputs(model: onnx.ModelProto, compiled: Compiled) -> tuple[np.ndarray, np.ndarray]:
    """What ONNX Runtime and the compiled network answer to the same random input."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    node = session.get_inputs()[0]
    x = np.random.default_rng(0).standard_normal(node.shape).astype(np.float32)
    machine = relax.VirtualMachine(compiled.executable, tvm.cpu())
    return session.run(None, {node.name: x})[0], machine["main"](tvm.runtime.tensor(x)).numpy()


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
    # stem; k3: depthwise, project; k5 and k7: expand, depthwise, project; head, pool, linear
    assert len(compiled.kernels) == 1 + 2 + 3 + 3 + 3
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


def test_the_result_does_not_depend_on_the_batch() -> None:
    ops = [OpSpec(**{**vars(op), "batch": 3}) for op in small_network()]
    model = network_graph(ops)
    assert_same(model, compile_onnx(model, TARGET), reduction=72)


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
