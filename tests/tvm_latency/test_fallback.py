"""MetaSchedule in a child: what it answers is taken if it can be, and nothing it does reaches the network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper

from targets.registry import get_target
from tvm_latency.build import compile_onnx
from tvm_latency.fallback import FallbackSettings, tune_fallbacks
from tvm_latency.lower import Lowered, lower

TARGET = get_target("x86")


def grouped_model() -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=2, pads=[1, 1, 1, 1])
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 14, 14])] for name in ("x", "y"))
    return helper.make_model(
        helper.make_graph([node], "g", inputs, outputs, [numpy_helper.from_array(weights, "w")]),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


@pytest.fixture(scope="module")
def grouped() -> Lowered:
    return lower(grouped_model(), TARGET)


def run_child(lowered: Lowered, script: str, deadline_s: float = 20.0) -> tuple[Lowered, list[str], list[object]]:
    """`tune_fallbacks` with a script in place of its child: the result, what it said, and the progress it showed."""
    said: list[str] = []
    shown: list[object] = []
    settings = FallbackSettings(trials=4, deadline_s=deadline_s, child=("-c", script))
    found = tune_fallbacks(lowered, TARGET, settings, lambda *step: shown.append(step), said.append)
    return found, said, shown


# What each hostile child does with the job it is sent.
READ = "import sys, json, os, time; job = json.loads(sys.stdin.readline());"
HOSTILE = {
    "crash": ("os.abort()", "died of SIGABRT"),
    "crash before it listens": None,
    "error": ("print(json.dumps({'error': 'gave up: no schedule was faster'}))", "gave up: no schedule was faster"),
    "end": ("pass", "ended with exit code 0"),
    "hang": ("time.sleep(60)", "took longer than 2 s"),
    "hang that shows progress": (
        "[(print(json.dumps({'trials': i}), flush=True), time.sleep(0.1)) for i in range(600)]",
        "took longer than 2 s",
    ),
    "garbage": ("print('\\x00\\xff{[')", "answered what is no message"),
    "a number": ("print(3)", "answered what is no message"),
    "half an answer": ("print(json.dumps({'module': job['module']}))", "answered what cannot be read (KeyError)"),
    "no time": (
        "print(json.dumps({'module': job['module'], 'default_s': 1, 'tuned_s': 0}))",
        "answered what cannot be read (ZeroDivisionError)",
    ),
    "a damaged module": (
        "print(json.dumps({'module': job['module'][:-40], 'default_s': 2, 'tuned_s': 1}))",
        "answered what cannot be read",
    ),
    "no module": (
        "print(json.dumps({'module': '[1, 2]', 'default_s': 2, 'tuned_s': 1}))",
        "answered what cannot be read",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_child_that_goes_wrong_leaves_the_default_loops(grouped: Lowered, name: str) -> None:
    script, reason = HOSTILE[name] or ("", "")
    deadline_s = 2.0 if "hang" in name else 20.0
    found, said, _ = run_child(grouped, READ + script if script else "import os; os.abort()", deadline_s)
    assert found.module.same_as(grouped.module)
    assert len(said) == 1
    assert said[0].startswith("conv2d keeps TVM's default loops: the process that tuned it ")
    assert reason in said[0]


def test_another_function_is_not_taken(grouped: Lowered) -> None:
    other = lower(grouped_model(), TARGET).module["conv2d"]
    shorter = tvm.tirx.PrimFunc(other.params[:2], tvm.tirx.Evaluate(0)).with_attr("global_symbol", "main")
    answer = {"module": tvm.ir.save_json(tvm.IRModule({"main": shorter})), "default_s": 2, "tuned_s": 1}
    found, said, _ = run_child(grouped, READ + f"print({json.dumps(answer)!r})")
    assert "answered another function" in said[0]
    assert found.module.same_as(grouped.module)


def test_an_answer_replaces_the_function_and_is_said(grouped: Lowered) -> None:
    script = READ + (
        "print(json.dumps({'trials': 3}));"
        "print(json.dumps({'module': job['module'], 'default_s': 3.0, 'tuned_s': 2.0}))"
    )
    found, said, shown = run_child(grouped, script)
    assert found.module["conv2d"].attrs["tirx.is_scheduled"]
    assert "tirx.is_scheduled" not in grouped.module["conv2d"].attrs
    assert said[0].startswith("conv2d: 1.5 times as fast as TVM's default loops")
    assert shown == [("tune conv2d", 3, 4, {})]


@pytest.mark.slow
@pytest.mark.compiles
def test_a_grouped_convolution_is_tuned_and_right(tmp_path: Path) -> None:
    said: list[str] = []
    settings = FallbackSettings(trials=8)

    def finish(lowered: Lowered) -> Lowered:
        return tune_fallbacks(lowered, TARGET, settings, lambda *_: None, said.append)

    x = tvm.runtime.tensor(np.random.default_rng(1).standard_normal((1, 16, 14, 14)).astype(np.float32))
    default, tuned = (compile_onnx(grouped_model(), TARGET, finish=how).load()(x).numpy() for how in (None, finish))
    assert "times as fast" in said[0]
    # 72 products are added, in another order.
    np.testing.assert_allclose(tuned, default, rtol=0, atol=72 * np.finfo(np.float32).eps * abs(default).max())
