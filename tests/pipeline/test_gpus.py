"""Commands on targets that are GPUs, where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline import api, doctor
from targets.toolchain import ToolchainError

pytestmark = pytest.mark.compiles


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_artefact_has_every_file_and_claims_nothing(dtype: str, tmp_path: Path) -> None:
    said: list[str] = []
    net = {"resolution": 32, "classes": 10}
    made = api.compile("mobilenet_v2@0.1", "cuda-sm90", tmp_path / "gpu", dtype=dtype, say=said.append, **net)
    assert {"model.so", "libnet.a", "net.h", "netbench"} <= set(made["files"])
    assert made["isa"]["mcpu"] == "sm_90"
    assert made["latency"]["measured_ms"] is None
    assert made["verification"] is None
    assert said == ["Nothing was verified: nothing here runs code for cuda-sm90. Run netbench on the machine."]
    assert any(name.startswith("matrix_product") for name in made["kernels"]) == (dtype == "float16")


def test_what_no_kind_covers_is_scheduled_by_tvm(tmp_path: Path) -> None:
    """A sigmoid of an image, say."""
    import onnx
    from onnx import TensorProto, helper

    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Sigmoid", ["x"], ["y"])],
        "g",
        [info("x", TensorProto.FLOAT, (1, 3, 8, 8))],
        [info("y", TensorProto.FLOAT, (1, 3, 8, 8))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, str(tmp_path / "net.onnx"))
    made = api.compile(str(tmp_path / "net.onnx"), "cuda-sm80", tmp_path / "gpu", say=lambda text: None)
    assert made["fallbacks"]
    assert "netbench" in made["files"]


def test_the_doctor_names_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "compiles for cuda-sm80" in doctor._gpus().text

    def missing() -> None:
        raise ToolchainError("There is none.", "pip install this")

    monkeypatch.setattr(doctor, "find_cuda_compiler", missing)
    assert doctor._gpus().text == "no compiler of CUDA: `pip install this`"
