"""`--weights float16` as a user types it: half the bytes, the same answers, and measured as it ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.compiles]


def test_a_trained_network_keeps_its_answers(finished: Path, cli: Any) -> None:
    arguments = ("compile", "whole", "--weights", "float16", "--data", "digits", "--json")
    manifest = json.loads(cli(*arguments, "--out", "half"))
    assert (manifest["weights"], manifest["verification"]["against"]) == ("float16", "PyTorch")
    assert manifest["verification"]["top1_agreement"] >= 0.995
    assert manifest["library_bytes"] == (cli.folder / "half" / "model.so").stat().st_size
    assert all(name.endswith("_wfloat16") or name.startswith("mean_pool") for name in manifest["kernels"])
    bench = json.loads(cli("bench", "whole", "--weights", "float16", "--against", "onnxruntime", "--json"))
    assert bench["weights"] == "float16"


def test_mobilenet_takes_little_more_than_half_the_bytes(cli: Any) -> None:
    sizes = {}
    for weights in ("float32", "float16"):
        arguments = ("compile", "mobilenet_v2", "--weights", weights, "--out", f"mobilenet-{weights}", "--json")
        sizes[weights] = json.loads(cli(*arguments))["library_bytes"]
    assert sizes["float16"] <= 0.55 * sizes["float32"]


def test_a_search_measures_what_it_will_ship(finished: Path, cli: Any) -> None:
    arguments = ("search", "--space", "tiny", "--budget", "5ms", "--weights", "float16", "--out", "half-search")
    cli(*arguments, "--database", "half-search.sqlite")
    derived = json.loads((cli.folder / "half-search" / "derive" / "result.json").read_text())
    assert all(operator["key"].endswith("-float16") for operator in derived["operators"])
    assert all(operator["source"] == "measured" for operator in derived["operators"])
    assert json.loads((cli.folder / "half-search" / "config.json").read_text())["weights"] == "float16"
