"""A network from outside is seen as the operators it was made of."""

from __future__ import annotations

from dataclasses import replace

import pytest
from onnx import TensorProto, helper

from supernet.named import named_architecture
from supernet.presets import CIFAR, DIGITS
from targets.registry import get_target
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec, stored_as
from tvm_latency.recognise import recognise

pytestmark = pytest.mark.compiles
TARGET = get_target("x86")
BLOCK = OpSpec(kind="mbconv", height=14, width=10, in_channels=40, out_channels=48, kernel=5, stride=2, hidden=184)


@pytest.mark.parametrize(
    "ops",
    [
        DIGITS.baseline.op_specs(),
        CIFAR.baseline.op_specs(batch=2),
        named_architecture("proxyless_mobile").op_specs(),
        (BLOCK,),
        (replace(BLOCK, hidden=0, expand=1),),
        (replace(BLOCK, hidden=40, stride=1, out_channels=40),),
        (OpSpec(kind="depthwise", height=9, width=9, in_channels=24, out_channels=24, kernel=7, stride=2),),
        (OpSpec(kind="conv", height=9, width=9, in_channels=24, out_channels=16, kernel=3, stride=2),),
    ],
)
def test_the_operators_are_those_that_the_network_was_made_of(ops: tuple[OpSpec, ...]) -> None:
    found = recognise(network_graph(ops), TARGET)
    # Operators alone read and answer pixel by pixel, which takes no loops of TVM's own.
    assert (found.ops, found.others) == (ops, ())


def test_weights_are_as_they_will_be_stored() -> None:
    ops = stored_as(DIGITS.baseline.op_specs(), "float16")
    assert recognise(network_graph(ops), TARGET, "float16").ops == ops


def test_what_is_no_operator_is_named() -> None:
    model = network_graph((BLOCK,))
    model.graph.node.append(helper.make_node("Sigmoid", ["logits"], ["gate"]))
    model.graph.output.pop()
    model.graph.output.append(helper.make_tensor_value_info("gate", TensorProto.FLOAT, [1, 7, 5, 48]))
    found = recognise(model, TARGET)
    assert found.ops == (BLOCK,)
    assert len(found.others) == 1
    assert "sigmoid" in found.others[0]
