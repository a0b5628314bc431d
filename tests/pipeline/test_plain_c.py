"""The plain C form beside model.so: written, tested, and what is said where there can be none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from pipeline import api, artefacts
from pipeline.agreement import Inference, VerifyError, onnx_reference
from pipeline.measure import MeasureError
from pipeline.plain_c import PLAIN_C, on_the_machine, self_test, write_plain_c
from targets.registry import get_target
from targets.runner import Answer, Timing
from targets.target import TargetError
from targets.toolchain import ToolchainError
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.onnx_graph import network_graph
from tvm_latency.opspec import OpSpec
from tvm_latency.standalone import write as standalone

OP = OpSpec(kind="mbconv", height=8, width=8, in_channels=8, out_channels=8, kernel=3, expand=3)
MODEL = network_graph([OP])
TARGET = get_target("x86")
pytestmark = pytest.mark.compiles


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    return compile_onnx(MODEL, TARGET)


def write(compiled: Compiled, folder: Path, reference: Inference) -> list[str]:
    said: list[str] = []
    write_plain_c(compiled, folder, "block", reference, 1e-4, said.append)
    return said


def test_it_is_written_and_tests_itself(compiled: Compiled, tmp_path: Path) -> None:
    assert write(compiled, tmp_path, onnx_reference(MODEL)) == []
    assert {file.name for file in tmp_path.iterdir()} == set(PLAIN_C)
    found = self_test(tmp_path, TARGET, "the ONNX reference", "float32")
    assert found is not None
    assert (found.against, found.images, found.top1_agreement) == ("the ONNX reference", 1, 1.0)
    assert found.max_abs_error <= 1e-4
    # A phone's, that an emulator runs here, was not on the phone.
    phone = replace(TARGET, name="phone", runner="adb:1", emulator=("env",))
    found = self_test(tmp_path, phone, "PyTorch", "float32")
    assert found is not None
    assert found.against == "PyTorch, emulated by env"
    # Nothing runs it where its emulator is missing.
    assert self_test(tmp_path, replace(TARGET, runner="emulated", emulator=("nowhere",)), "itself", "float32") is None


def test_an_emulator_tests_the_same_program_once(compiled: Compiled, tmp_path: Path) -> None:
    write(compiled, tmp_path, onnx_reference(MODEL))
    emulator, calls = tmp_path / "emulator", tmp_path / "calls"
    emulator.write_text(f'#!/bin/sh\necho called >>{calls}\nexec "$@"\n')
    emulator.chmod(0o755)
    board = replace(TARGET, name="board", runner="emulated", emulator=(str(emulator),))
    first, second = (self_test(tmp_path, board, "PyTorch", "float32") for _ in range(2))
    assert first == second
    assert first is not None
    assert len(calls.read_text().splitlines()) == 1
    # Another emulator, and another program, are asked.
    emulator.write_text(emulator.read_text() + "# newer\n")
    self_test(tmp_path, board, "PyTorch", "float32")
    with (tmp_path / "netbench").open("ab") as program:
        program.write(b"other")
    self_test(tmp_path, board, "PyTorch", "float32")
    assert len(calls.read_text().splitlines()) == 3
    # What fails is not remembered.
    write(compiled, tmp_path, lambda image: onnx_reference(MODEL)(image) + np.float32(0.1))
    for _ in range(2):
        with pytest.raises(VerifyError, match="does not do what PyTorch does"):
            self_test(tmp_path, board, "PyTorch", "float32")
    assert len(calls.read_text().splitlines()) == 5


def test_a_wrong_one_is_refused_with_a_cause(compiled: Compiled, tmp_path: Path) -> None:
    right = onnx_reference(MODEL)
    write(compiled, tmp_path, lambda image: right(image) + np.float32(0.1))
    with pytest.raises(VerifyError, match=r"does not do what PyTorch does\. .*off by 0\.1.* bug of a kernel"):
        self_test(tmp_path, TARGET, "PyTorch", "float32")
    with pytest.raises(VerifyError, match="compile it with --weights float32"):
        self_test(tmp_path, TARGET, "PyTorch", "float16")


def test_without_what_compiles_it_the_library_is_left_and_a_sentence(
    compiled: Compiled, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(_: object) -> None:
        raise ToolchainError("cc could not link netbench.")

    (tmp_path / "netbench").write_text("of an earlier artefact")
    monkeypatch.setattr(standalone, "find_toolchain", missing)
    said = write(compiled, tmp_path, onnx_reference(MODEL))
    assert said == ["There is no plain C form, only model.so. cc could not link netbench."]
    assert list(tmp_path.iterdir()) == []
    assert self_test(tmp_path, TARGET, "PyTorch", "float32") is None


def test_a_reference_without_an_answer_is_refused(compiled: Compiled, tmp_path: Path) -> None:
    with pytest.raises(VerifyError, match="The reference answers the test image with something that is not a finite"):
        write(compiled, tmp_path, lambda image: np.full_like(image, np.nan))


def test_what_a_machine_found_of_it() -> None:
    machine = get_target("raspberry-pi-4@ssh:board")
    found = on_the_machine(Timing("a", (1.0,), Answer(2e-6, True)), "PyTorch", machine)
    assert found is not None
    assert (found.against, found.max_abs_error) == ("PyTorch, on the machine by ssh:board", 2e-6)
    assert on_the_machine(Timing("a", (1.0,)), "PyTorch", machine) is None


@pytest.fixture
def onnx_file(parse_net: Callable[[Path], Path], tmp_path: Path) -> Path:
    return parse_net(tmp_path)


@pytest.fixture
def parse_net() -> Callable[[Path], Path]:
    def save(folder: Path) -> Path:
        ops = [
            OpSpec(kind="conv", height=8, width=8, in_channels=3, out_channels=8, kernel=3),
            OpSpec(kind="pool", height=8, width=8, in_channels=8, out_channels=8),
        ]
        onnx.save(network_graph(ops), folder / "small.onnx")
        return folder / "small.onnx"

    return save


def test_only_an_emulator_counts(onnx_file: Path) -> None:
    with pytest.raises(TargetError, match="--count has an emulator count instructions, and none counts for x86"):
        api.compile(str(onnx_file), "x86", count=True)


def test_nothing_is_tuned_for_another_machine(onnx_file: Path) -> None:
    with pytest.raises(TargetError, match="--tune-fallback measures, and android-arm64 is another machine"):
        api.compile(str(onnx_file), "android-arm64", tune_fallback=1)


def test_bench_is_refused_for_another_machine() -> None:
    for target in ("android-arm64", "x86-64-v3@ssh:board"):
        with pytest.raises(
            TargetError, match=rf"`bench` times runtimes that are installed here, and {target} is another"
        ):
            api.bench(["mobilenet_v2"], target, against="")


@pytest.mark.slow
def test_what_nothing_here_runs_is_compiled_and_said_to_be_unverified(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ziglang")
    monkeypatch.setattr("pipeline.plain_c.launcher", lambda _: None)
    monkeypatch.setattr(artefacts, "launcher", lambda _: None)
    said: list[str] = []
    found = api.compile(str(onnx_file), "android-arm64", tmp_path / "out", say=said.append)
    assert said == [
        "Nothing was verified: nothing here runs code for android-arm64 (qemu-aarch64 would). Run netbench on the "
        "machine."
    ]
    assert (found["verification"], found["latency"]["emulated_minstr"]) == (None, None)


def test_a_network_that_the_runner_has_no_form_of(
    onnx_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured by programs, and there is none."""

    def missing(*_: object) -> None:
        raise ToolchainError("no static C library.")

    monkeypatch.setattr("pipeline.plain_c.write_standalone", missing)
    said: list[str] = []
    with pytest.raises(MeasureError, match=r"has no netbench, and bundle:.* measures nothing else"):
        api.compile(str(onnx_file), f"x86-64-v3@bundle:{tmp_path}/bundle", tmp_path / "out", say=said.append)
    assert said == ["There is no plain C form, only model.so. no static C library."]
