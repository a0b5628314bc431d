"""The official table: its keys are those that the published code asks for, and what is written is read again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from supernet.named import named_architecture
from supernet.presets import IMAGENET
from tvm_latency.opspec import OpSpec
from tvm_latency.proxyless_yaml import ProxylessYamlError, read_proxyless_yaml, write_proxyless_yaml

SECONDS = {op: 1e-6 * (number + 1) for number, op in enumerate(IMAGENET.op_specs())}


def test_keys_are_those_of_the_published_estimator(tmp_path: Path) -> None:
    write_proxyless_yaml(SECONDS, tmp_path / "x86.yaml")
    table = yaml.safe_load((tmp_path / "x86.yaml").read_text())
    # From the estimator's own example, and from `LatencyEstimator.predict`.
    assert {
        "Conv-input:224x224x3-output:112x112x32",
        "expanded_conv-input:112x112x16-output:56x56x24-expand:3-kernel:5-stride:2-idskip:0",
        "expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:7-stride:1-idskip:1",
        "Conv_1-input:7x7x320-output:7x7x1280",
        "Logits-input:7x7x1280-output:1000",
    } <= table.keys()
    stem = next(op for op in SECONDS if op.kernel == 3 and op.kind == "conv")
    assert table["Conv-input:224x224x3-output:112x112x32"] == {"mean": pytest.approx(1e3 * SECONDS[stem])}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    write_proxyless_yaml(SECONDS, tmp_path / "x86.yaml")
    found, left_out = read_proxyless_yaml(tmp_path / "x86.yaml")
    assert (set(found), left_out) == (set(SECONDS), ())
    shared = {op for op in SECONDS if op.kind in ("pool", "linear")}
    assert {op: s for op, s in found.items() if op not in shared} == pytest.approx(
        {op: s for op, s in SECONDS.items() if op not in shared}
    )
    # One entry has both; each network runs both once.
    assert sum(found[op] for op in shared) == pytest.approx(sum(SECONDS[op] for op in shared))
    assert sum(found[op] for op in named_architecture("mobilenet_v2").op_specs() if op in found) > 0


def test_layers_that_are_none_of_ours_are_named(tmp_path: Path) -> None:
    file = tmp_path / "phone.yaml"
    block = "expanded_conv-input:56x56x24-output:56x56x24-expand:6-kernel:7-stride:1-idskip"
    file.write_text(
        f"{block}:1: {{mean: 1.5, count: 60}}\n{block}:0: {{mean: 1.4}}\n"
        "expanded_conv-input:56x56x24-output:9x9x24-expand:6-kernel:7-stride:1-idskip:0: {mean: 1}\n"
        "expanded_conv-input:56x56x24-output:56x56x32-expand:6-kernel:4-stride:1-idskip:0: {mean: 1}\n"
        "Resize-input:56x56x24: {mean: 1}\n"
    )
    found, left_out = read_proxyless_yaml(file)
    assert {op.key: s for op, s in found.items()} == {
        "mbconv-n1-h56w56-i24-o24-k7-s1-e6-float32": pytest.approx(1.5e-3)
    }
    assert len(left_out) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "not YAML"),
        ("[]", "must map layers"),
        ("Resize-input:1: {mean: 1}", "'Resize-input:1' is none"),
        ("Logits-input:7x7x8-output:9: {mean: 0}", "a `mean` of milliseconds above zero, has 0"),
        ("Logits-input:7x7x8-output:9: {mean: .nan}", "has nan"),
        ("Logits-input:7x7x8-output:9: 3", "has None"),
    ],
)
def test_a_file_that_is_no_table_is_a_sentence(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ProxylessYamlError, match=message):
        read_proxyless_yaml(tmp_path / "bad.yaml")


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (replace(next(iter(SECONDS)), batch=2), "one image"),
        (replace(next(iter(SECONDS)), dtype="float16"), "float32 weights"),
        (replace(next(iter(SECONDS)), kernel=5), "no entry for such a layer"),
        (OpSpec(kind="linear", height=1, width=1, in_channels=8, out_channels=9), "no entry for such a layer"),
    ],
)
def test_what_the_format_cannot_say_is_refused(tmp_path: Path, op: OpSpec, message: str) -> None:
    with pytest.raises(ProxylessYamlError, match=message):
        write_proxyless_yaml({op: 1e-6}, tmp_path / "out.yaml")
    assert list(tmp_path.iterdir()) == []
