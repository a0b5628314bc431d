"""Weights stored as float16: what they may change, what is compared with what, and that each type stands apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from pipeline import calibration, shipping
from pipeline.agreement import FLOAT16_ROUNDING, VerifyError, cause_of_difference, compare, random_image, tolerance
from pipeline.bench_child import work
from pipeline.cli import app
from pipeline.errors import ExitCode
from pipeline.places import calibration_folder
from pipeline.verify import check_half_weights, pytorch, random_network
from supernet.export import fold_batch_norm, to_onnx
from supernet.network import Network
from supernet.presets import DIGITS
from targets.registry import get_target
from targets.target import DType
from tvm_latency.latency_table import Entry, LatencyTable, MissingLatencyError
from tvm_latency.opspec import stored_as

IMAGES = [random_image((1, 3, 16, 16), seed) for seed in range(4)]


def layers(count: int) -> onnx.ModelProto:
    """A model of that many products of 64 x 64."""
    nodes = [helper.make_node("MatMul", [f"t{i}", "w"], [f"t{i + 1}"]) for i in range(count)]
    weights = numpy_helper.from_array(np.zeros((64, 64), np.float32), "w")
    return onnx.ModelProto(graph=onnx.GraphProto(node=nodes, initializer=[weights]))


def halved(network: Network) -> Network:
    """The network with its weights rounded after batch norm is folded in, and biases left as they are."""
    rounded = fold_batch_norm(network)
    with torch.no_grad():
        for name, parameter in rounded.named_parameters():
            if name.endswith("weight"):
                parameter.copy_(parameter.half())
    return rounded


def test_the_tolerance_grows_with_the_root_of_the_layers() -> None:
    added = [tolerance(layers(n), "float16") - tolerance(layers(n)) for n in (0, 3, 12)]
    assert added == pytest.approx([0, 4 * FLOAT16_ROUNDING, 8 * FLOAT16_ROUNDING])


@pytest.mark.parametrize("depth", [2, 10, 50])
def test_rounded_weights_move_outputs_by_what_the_derivation_says(depth: int) -> None:
    """Layers of random weights and ReLU: the share is within the tolerance, and not far below what it is built of."""
    random = np.random.default_rng(depth)
    single = half = random.standard_normal((8, 256))
    for _ in range(depth):
        weights = random.standard_normal((256, 256)) * np.sqrt(2 / 256)
        single, half = (np.maximum(x @ w, 0) for x, w in ((single, weights), (half, weights.astype(np.float16))))
    share = np.abs(half - single).max() / np.abs(single).max()
    unit = FLOAT16_ROUNDING * np.sqrt(depth / 3)
    assert unit / 4 < share < 4 * unit


def test_a_network_with_rounded_weights_is_within_and_what_it_costs_is_reported() -> None:
    network = random_network(DIGITS.baseline)
    model = to_onnx(network, DIGITS.baseline)
    rounded = pytorch(halved(network))
    found = compare(rounded, pytorch(network), IMAGES, "PyTorch", tolerance(model, "float16"))
    assert found.max_abs_error > 0
    assert found.top1_agreement == 1.0
    check_half_weights(rounded, network, IMAGES, tolerance(model))


def test_a_bug_of_a_kernel_cannot_hide_behind_the_rounding_of_weights() -> None:
    """Off by five times float32's tolerance, which float16's would allow."""
    network = random_network(DIGITS.baseline)
    model, rounded = to_onnx(network, DIGITS.baseline), pytorch(halved(network))

    def wrong(image: np.ndarray) -> np.ndarray:
        return rounded(image) + np.float32(5 * tolerance(model))

    compare(wrong, pytorch(network), IMAGES, "PyTorch", tolerance(model, "float16"))
    with pytest.raises(VerifyError, match=r"differs from PyTorch with the same float16 weights by .* bug of a kernel"):
        check_half_weights(wrong, network, IMAGES, tolerance(model))


@pytest.mark.parametrize(
    ("output", "said"),
    [([1.5, 0.9], "differs from PyTorch by up to 0.5"), ([0.94, 0.96], "prefers a class that is 0.1 behind")],
)
@pytest.mark.parametrize(
    ("dtype", "told"),
    [
        ("float32", "weights stored as float16: .* --weights float32"),
        ("float16", "arithmetic in float16: .* --dtype float32"),
    ],
)
def test_a_network_that_does_not_stand_half_precision_is_told_what_to_do(
    output: list[float], said: str, dtype: DType, told: str
) -> None:
    reference, compiled = (np.array([logits], np.float32) for logits in ([1.0, 0.9], output))
    cause = cause_of_difference("float16", dtype)
    with pytest.raises(VerifyError, match=f"{said}.* does not stand {told}"):
        compare(lambda x: compiled, lambda x: reference, IMAGES, "PyTorch", 0.07, cause)


def test_verify_compares_with_both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The stage of a run: the rounded weights prove the kernels, the network's own say what rounding cost."""
    network, seen = random_network(DIGITS.baseline), []
    model = to_onnx(network, DIGITS.baseline)
    monkeypatch.setattr(shipping.training, "load_network", lambda *_: network)
    monkeypatch.setattr(shipping, "real_images", lambda *_: IMAGES)
    monkeypatch.setattr(shipping, "LoadedNetwork", lambda path: pytorch(halved(network)))
    monkeypatch.setattr(shipping.onnx, "load", lambda path: model)
    monkeypatch.setattr(shipping, "check_half_weights", lambda *_: seen.append("rounded"))
    config = SimpleNamespace(weights="float16")
    context: Any = SimpleNamespace(
        networks={"winner": None}, folder=tmp_path, data=SimpleNamespace(test=None), config=config
    )
    context.place = lambda stage, target: tmp_path / stage
    found = shipping.verify(context, tmp_path, get_target("x86"))
    assert (seen, found["images"], found["top1_agreement"]) == (["rounded"], 4, 1.0)
    assert found["max_abs_error"] > 0


@pytest.mark.parametrize(("stored", "agree"), [("float16", True), ("float32", False)])
def test_runtimes_may_differ_by_the_rounding_of_our_weights(tmp_path: Path, stored: str, agree: bool) -> None:
    models = [to_onnx(random_network(DIGITS.baseline), DIGITS.baseline) for _ in range(2)]
    for tensor in models[1].graph.initializer:
        weights = numpy_helper.to_array(tensor)
        if weights.ndim > 1:
            rounded = weights.astype(np.float16).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(rounded, tensor.name))
    # Logits of a random network are small beside 1, of which the tolerance is a share: these are not.
    for tensor in (tensor for model in models for tensor in model.graph.initializer):
        if list(tensor.dims) == [10, DIGITS.baseline.head_channels]:
            tensor.CopyFrom(numpy_helper.from_array(100 * numpy_helper.to_array(tensor), tensor.name))
    entries = []
    for i, model in enumerate(models):
        onnx.save(model, tmp_path / f"{i}.onnx")
        described = {"onnx_file": str(tmp_path / f"{i}.onnx"), "library": "", "stored": stored}
        entries.append({"net": "n", "runtime": "onnxruntime", "model": described})
    answer = work({"entries": entries, "shape": (1, 3, 16, 16), "threads": 1, "warmup": 1, "rounds": 1, "calls": 1})
    assert ("error" not in answer) is agree, answer


def test_calibrations_of_other_weights_stand_apart_and_evict_what_passes(tmp_path: Path) -> None:
    target = get_target("x86")
    folders = [calibration_folder(tmp_path / "m", target, "digits", weights) for weights in ("float32", "float16")]
    assert [folder.parent.name for folder in folders] == ["x86-t1", "x86-t1-float16"]
    single, half = (calibration.evict_bytes(DIGITS, weights) for weights in ("float32", "float16"))
    assert 0.5 * single < half < 0.55 * single


def test_a_search_takes_latencies_of_the_weights_that_ship() -> None:
    ops = stored_as(DIGITS.op_specs(), "float16")
    entries = {op.key: Entry(1e-5, 0.0, "measured", 1e-5) for op in ops}
    table = LatencyTable(target_name="x86", fingerprint="here", entries=entries)
    assert calibration.path_latency(DIGITS, table, "float16").fixed > 0
    with pytest.raises(MissingLatencyError, match="float32"):
        calibration.path_latency(DIGITS, table)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """An .onnx file with a weight beyond float16."""
    weights = numpy_helper.from_array(np.full((4, 3, 1, 1), 1e5, np.float32), "w")
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 4, 4])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, 4, 4, 4])
    graph = helper.make_graph([helper.make_node("Conv", ["image", "w"], ["logits"])], "g", [image], [logits], [weights])
    path = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


@pytest.mark.parametrize("command", ["run", "search", "calibrate", "compile n", "bench n", "predict n"])
def test_every_command_that_builds_or_measures_has_the_option(command: str) -> None:
    done = CliRunner().invoke(app, [*command.split(), "--weights", "int8"])
    assert done.exit_code == ExitCode.USAGE
    assert "'int8' is not one of 'float32'" in " ".join(done.output.split())


def test_weights_beyond_float16_are_a_sentence(large: Path, tmp_path: Path) -> None:
    run: Callable[..., Any] = CliRunner().invoke
    done = run(app, ["compile", str(large), "--weights", "float16", "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == ExitCode.LOWERING
    said = json.loads(done.stdout)["error"]
    assert "pointwise_n1_h4w4_i3_o4" in said
    assert "has a weight of magnitude 1e+05; float16 ends at 65504. Compile the model with --weights float32" in said


def test_arithmetic_in_half_is_allowed_what_its_sums_round_and_no_more_than_a_twentieth() -> None:
    network = to_onnx(random_network(DIGITS.baseline), DIGITS.baseline)
    weights, arithmetic = tolerance(network, "float16"), tolerance(network, "float16", "float16")
    assert weights < arithmetic <= 0.05
    # One layer of 64 terms: its weight, its answer and 64 additions round.
    added = tolerance(layers(1), "float16", "float16") - tolerance(layers(1))
    terms = next(t.dims[0] for t in layers(1).graph.initializer if len(t.dims) == 2)
    assert added == pytest.approx(4 * FLOAT16_ROUNDING * np.sqrt((2 + terms / 2) / 3))
