"""Operators as ONNX models: shapes, and that they compute what the operator says."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tvm_latency.onnx_graph import input_shape, network_graph, random_values
from tvm_latency.opspec import OpSpec, stored_as

STEM = OpSpec(kind="conv", height=9, width=9, in_channels=3, out_channels=8, kernel=3, stride=2)
BLOCK = OpSpec(kind="mbconv", height=5, width=5, in_channels=8, out_channels=8, kernel=5, expand=3)
POOL = OpSpec(kind="pool", height=5, width=5, in_channels=8, out_channels=8)
LINEAR = OpSpec(kind="linear", height=1, width=1, in_channels=8, out_channels=10)


def run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": x})[0]


@pytest.mark.parametrize(
    ("ops", "shape", "out"),
    [
        ([STEM], (1, 3, 9, 9), (1, 5, 5, 8)),
        ([BLOCK], (1, 5, 5, 8), (1, 5, 5, 8)),
        ([POOL], (1, 5, 5, 8), (1, 8)),
        ([LINEAR], (1, 8), (1, 10)),
        ([STEM, BLOCK, POOL, LINEAR], (1, 3, 9, 9), (1, 10)),
    ],
)
def test_images_stand_in_planes_and_all_else_pixel_by_pixel(
    ops: list[OpSpec], shape: tuple[int, ...], out: tuple[int, ...]
) -> None:
    assert input_shape(ops[0]) == shape
    assert run(network_graph(ops), np.ones(shape, np.float32)).shape == out


def test_a_block_is_expand_depthwise_project_and_residual() -> None:
    """The same by hand, with the model's own weights."""
    model = network_graph([BLOCK])
    w = {t.name: torch.from_numpy(onnx.numpy_helper.to_array(t).copy()).double() for t in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    x = np.random.default_rng(0).standard_normal(input_shape(BLOCK)).astype(np.float32)
    t = image = torch.from_numpy(x).double().permute(0, 3, 1, 2)
    for i, (node, padding, groups) in enumerate(zip(convs, (0, 2, 0), (1, 24, 1))):
        t = torch.nn.functional.conv2d(t, w[node.input[1]], w[node.input[2]], padding=padding, groups=groups)
        t = t.clip(0, 6) if i < 2 else t
    expected = (t + image).permute(0, 2, 3, 1).numpy()
    tolerance = 8 * (25 + 24) * np.finfo(np.float32).eps * abs(expected).max()
    np.testing.assert_allclose(run(model, x), expected, rtol=0, atol=tolerance)


def test_weights_follow_the_seed() -> None:
    assert network_graph([BLOCK]) == network_graph([BLOCK], random_values(0)) == network_graph([BLOCK])
    assert network_graph([BLOCK]) != network_graph([BLOCK], random_values(1))


def test_weights_of_two_types_are_no_network() -> None:
    half = stored_as([LINEAR], "float16")
    assert network_graph(half) == network_graph([LINEAR]), "the compiler rounds, not the model"
    with pytest.raises(ValueError, match=r"linear-\S+-float16 and pool-\S+-float32: all weights of a network"):
        network_graph([POOL, *half])
