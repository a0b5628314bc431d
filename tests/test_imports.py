"""The import rule: targets <- tvm_latency <- supernet <- pipeline, and which library lives where."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("targets", "tvm_latency", "supernet", "pipeline")

# What each package may import of the project.
ALLOWED = {
    "targets": {"targets"},
    "tvm_latency": {"tvm_latency", "targets"},
    "supernet": {"supernet", "tvm_latency.opspec", "tvm_latency.onnx_graph"},
    "pipeline": set(PACKAGES),
}

# Where each library may be imported: a package, or a file.
HOMES = {
    "torch": {"supernet", "pipeline/verify.py", "pipeline/peers/torch_layers.py"},
    "kornia": {"supernet"},
    "datasets": {"supernet"},
    "tvm": {"tvm_latency", "targets"},
    "xgboost": {"tvm_latency/cost_model.py"},
    "sqlite3": {"tvm_latency/database.py"},
    "rich": {"pipeline/console.py"},
    "typer": {"pipeline/cli.py", "pipeline/commands.py", "pipeline/options.py"},
    "plotly": {"pipeline/figures.py", "pipeline/report.py"},
    "tensorboardX": {"pipeline/events.py"},
    "onnxruntime": {"pipeline/peers/onnx_readers.py"},
    "openvino": {"pipeline/peers/onnx_readers.py"},
    "ncnn": {"pipeline/peers/ncnn.py"},
    "pnnx": {"pipeline/peers/ncnn.py"},
    "ai_edge_litert": {"pipeline/peers/litert.py", "pipeline/peers/tflite.py"},
    "flatbuffers": {"pipeline/peers/tflite.py"},
    "pickle": set(),
}

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, allowed: set[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allowed)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_what_it_may(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    package = place.partition("/")[0]
    for name in imported(path):
        top = name.partition(".")[0]
        if top in PACKAGES:
            # `from tvm_latency import opspec` names the package first: what counts is what is taken from it.
            longer = {other for other in imported(path) if other.startswith(f"{name}.")}
            assert within(name, ALLOWED[package]) or any(within(other, ALLOWED[package]) for other in longer), name
        if top in HOMES:
            assert place in HOMES[top] or package in HOMES[top], f"{top} does not belong into {place}"


def test_the_rule_finds_what_breaks_it(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import supernet.space\nfrom tvm_latency import opspec, build\n")
    names = set(imported(path))
    assert names == {"supernet.space", "tvm_latency", "tvm_latency.opspec", "tvm_latency.build"}
    assert not within("supernet.space", ALLOWED["targets"])
    assert not within("tvm_latency.build", ALLOWED["supernet"])
    assert within("tvm_latency.opspec.OpSpec", ALLOWED["supernet"])
