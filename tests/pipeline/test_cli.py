"""Bad input through the command line: a sentence, the code of the table, no traceback."""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner, Result

from pipeline import disk
from pipeline.cli import app
from pipeline.config import RunConfig, make_config
from pipeline.console import show
from pipeline.errors import ExitCode
from pipeline.run_folder import Run
from supernet.presets import DIGITS
from supernet.space import SearchSpace
from targets import host, local
from tvm_latency.calibrate import CalibrationError


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """`netlathe ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def images(folder: Path, classes: int, each: int) -> Path:
    for label in range(classes):
        (folder / f"class{label}").mkdir(parents=True)
        for i in range(each):
            pixels = np.full((16, 16, 3), 10 * label + i, dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{label}" / f"{i}.png")
    return folder


def broken(folder: Path, number: int) -> None:
    (images(folder, classes=2, each=20) / "class0" / f"{number}.png").write_bytes(b"\x89PNG\r\n")


def expect(result: Result, code: ExitCode, message: str) -> None:
    assert result.exit_code == code, result.output
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("run --target x87", ExitCode.TARGET, "Unknown target 'x87'. Did you mean x86?"),
        ("run --space digit", ExitCode.USAGE, "Unknown space 'digit'. Did you mean digits"),
        ("run --budget soon", ExitCode.USAGE, "The budget 'soon' is not a number. Write `0.6x`"),
        ("run --budget -1ms", ExitCode.USAGE, "The budget must be above zero"),
        ("run --budget-ms -3", ExitCode.USAGE, "The budget must be above zero"),
        ("run --budget-ms 3 --budget 0.5x", ExitCode.USAGE, "The budget was given twice"),
        ("run --seed -1", ExitCode.USAGE, "Option 'seed' cannot be -1"),
        ("run --threads 1000", ExitCode.TARGET, "number of threads must be between 1 and"),
        ("run --data digit", ExitCode.DATA, "Unknown data 'digit'. Did you mean digits?"),
        ("run --data ./nowhere", ExitCode.DATA, "There is no file or folder nowhere"),
        ("predict mobilnet_v2", ExitCode.USAGE, "Unknown network 'mobilnet_v2'. Did you mean mobilenet_v2?"),
        ("predict mobilenet_v2@wide", ExitCode.USAGE, "'wide' is not a width multiplier"),
        ("run --algorithm grid", ExitCode.USAGE, "Invalid value for '--algorithm'"),
        ("run --recipe long", ExitCode.USAGE, "Invalid value for '--recipe'"),
        ("run --penalty none", ExitCode.USAGE, "Invalid value for '--penalty'"),
        ("run --width 0", ExitCode.USAGE, "Invalid value for '--width'"),
        ("run --resolution 2", ExitCode.USAGE, "2 pixels"),
        ("run --max-params -1", ExitCode.USAGE, "Option 'max_params' cannot be -1.0"),
        ("run --max-params inf", ExitCode.USAGE, "Option 'max_params' cannot be inf"),
        ("run --max-memory-kb 0.001", ExitCode.USAGE, "bytes"),
        ("run --space nowhere.toml", ExitCode.USAGE, "There is no file nowhere.toml"),
        ("calibrate --space nowhere.toml", ExitCode.USAGE, "There is no file nowhere.toml"),
        ("calibrate --space digits --resolution 1", ExitCode.USAGE, "1 pixels"),
        ("sweep --budgets 0.5x,soon", ExitCode.USAGE, "The budget 'soon' is not a number"),
        ("sweep --budgets 0.5x,", ExitCode.USAGE, "The budget '' is not a number"),
        (
            "predict mobilenet_v2 --database d/m.sqlite --space digits --width 0.5 --resolution 32",
            ExitCode.MEASUREMENT,
            "no calibration for space digits@0.5-r32 with 1 thread(s) and float32 weights. "
            "Run `netlathe calibrate --target x86 --space digits --resolution 32 --width 0.5 --threads 1` first",
        ),
        ("run --resume --out nowhere", ExitCode.RUN_FOLDER, "There is no run in nowhere to go on with"),
        ("predict mobilenet_v2 --space nowhere", ExitCode.USAGE, "Unknown space 'nowhere'"),
        ("predict nowhere.json", ExitCode.USAGE, "There is no file nowhere.json"),
        ("predict mobilenet_v2 --database d/m.sqlite", ExitCode.MEASUREMENT, "has no calibration for space imagenet"),
        ("compile nowhere.onnx", ExitCode.USAGE, "There is no file nowhere.onnx"),
        (
            "predict mobilenet_v2 --database d/m.sqlite --weights float16",
            ExitCode.MEASUREMENT,
            "and float16 weights. Run `netlathe calibrate --target x86 --space imagenet --threads 1 --weights float16`",
        ),
        (
            "bench mobilenet_v2 --against onnx",
            ExitCode.MEASUREMENT,
            "Unknown runtime 'onnx'. Did you mean onnxru",
        ),
        ("report .", ExitCode.RUN_FOLDER, "has no result of stage setup"),
    ],
)
def test_options_that_do_not_exist(invoke: Callable[..., Result], arguments: str, code: ExitCode, message: str) -> None:
    expect(invoke(*arguments.split()), code, message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder.mkdir(), "No images in"),
        (lambda folder: images(folder, classes=1, each=20), "one class only"),
        (lambda folder: images(folder, classes=2, each=3), "too few to split"),
        (lambda folder: broken(folder, number=0), "0.png"),
        (lambda folder: broken(folder, number=3), "Cannot read"),
    ],
)
def test_images_that_cannot_be_used(
    invoke: Callable[..., Result], tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    make(tmp_path / "data")
    expect(invoke("run", "--data", tmp_path / "data"), ExitCode.DATA, message)


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("--space digits --width 0.5 --resolution 24", "digits@0.5-r24"),
        ("--space 'my spaces/leaves.toml'", "leaves"),
        ("--space 'my spaces/leaves.toml' --width 1.5 --weights float16", "leaves@1.5"),
    ],
)
def test_a_missing_calibration_says_a_command_that_makes_it(
    invoke: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: str, name: str
) -> None:
    (tmp_path / "my spaces").mkdir()
    page = (Path(__file__).parents[2] / "docs" / "spaces.md").read_text()
    (tmp_path / "my spaces" / "leaves.toml").write_text(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[0])
    missing = invoke(*shlex.split(f"predict mobilenet_v2 --database d/m.sqlite {asked}"))
    expect(missing, ExitCode.MEASUREMENT, f"no calibration for space {name} with")
    (command,) = re.findall(r"Run `netlathe (.*)` first", " ".join(missing.output.split()))
    asked_for: list[str] = []

    def calibrate(space: SearchSpace, *_: object, **__: object) -> object:
        asked_for.append(space.name)
        raise CalibrationError("enough seen")

    monkeypatch.setattr("pipeline.api.calibrate_space", calibrate)
    expect(invoke(*shlex.split(command), "--database", "d/m.sqlite"), ExitCode.MEASUREMENT, "enough seen")
    assert asked_for == [name]


def test_errors_as_json(invoke: Callable[..., Result]) -> None:
    result = invoke("predict", "mobilnet_v2", "--json")
    assert result.exit_code == ExitCode.USAGE
    found = json.loads(result.stdout)
    assert found["exit_code"] == ExitCode.USAGE
    assert found["error"].startswith("Unknown network 'mobilnet_v2'.")


def test_a_folder_of_another_run(invoke: Callable[..., Result], tmp_path: Path) -> None:
    Run(tmp_path / "out", RunConfig(), resume=False, say=print).close()
    expect(invoke("run", "--seed", 1, "--out", "out"), ExitCode.RUN_FOLDER, "another run (seed is 0 there, 1 here)")
    expect(invoke("run", "--seed", 1, "--out", "out", "--resume"), ExitCode.RUN_FOLDER, "holds another run")
    half = invoke("run", "--dtype", "float16", "--out", "out", "--resume")
    expect(half, ExitCode.RUN_FOLDER, "holds another run")
    expect(invoke("run", "--out", "out"), ExitCode.RUN_FOLDER, "already holds this run. Add --resume")


@pytest.mark.parametrize("command", ["compile mine.json --out .", "train mine.json --data digits --epochs 1 --out ."])
def test_an_output_folder_that_holds_something_else(
    invoke: Callable[..., Result], tmp_path: Path, command: str
) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(DIGITS.baseline.to_json()))
    expect(invoke(*command.split()), ExitCode.RUN_FOLDER, ". is not empty and is not a run")
    (tmp_path / "config.json").touch()
    expect(invoke(*command.split()), ExitCode.RUN_FOLDER, ". holds a run, which would be overwritten")


def test_code_that_this_machine_cannot_run(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    old = replace(host.detect_host(), flags=frozenset({"avx2"}))
    monkeypatch.setattr(local, "detect_host", lambda: old)
    for command in ("compile", "bench"):
        found = invoke(command, "mobilenet_v2", "--target", "x86-64-v4")
        expect(found, ExitCode.MEASUREMENT, "Code for x86-64-v4 cannot run on this machine: it needs 512-bit vectors")


def test_a_seed_out_of_range(invoke: Callable[..., Result]) -> None:
    assert invoke("train", "mobilenet_v2", "--data", "digits", "--seed", 5000000000).exit_code == ExitCode.USAGE


def test_a_folder_that_is_no_run(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    expect(invoke("run", "--out", "."), ExitCode.RUN_FOLDER, "is not empty and is not a run")


def test_a_full_disk(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**20))
    expect(invoke("run"), ExitCode.STORAGE, "Only 1 MB are free where runs/digits-x86-0.6x-s0 is; a run needs 500 MB")


def test_a_folder_without_permission(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    expect(invoke("run"), ExitCode.STORAGE, "Permission denied: runs/digits-x86-0.6x-s0.")


def test_ctrl_c_says_how_to_go_on(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.api.perform", interrupt)
    expect(invoke("run", "--out", "mine"), ExitCode.INTERRUPTED, "Stopped. To go on: netlathe run --resume --out mine")
    result = invoke("search", "--out", "my run", "--database", "m.sqlite")
    expect(result, ExitCode.INTERRUPTED, "To go on: netlathe search --resume --out 'my run' --database m.sqlite")


def test_a_bug_keeps_its_traceback(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("pipeline.api.perform", bug)
    result = invoke("run")
    assert isinstance(result.exception, KeyError)


def test_a_database_of_another_version(invoke: Callable[..., Result], tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "m.sqlite") as connection:
        connection.execute("PRAGMA user_version = 999")
    expect(invoke("calibrate", "--space", "digits", "--database", "m.sqlite"), ExitCode.STORAGE, "999")


def test_an_operator_that_nothing_lowers(invoke: Callable[..., Result], tmp_path: Path) -> None:
    node = helper.make_node("Det", ["image"], ["logits"])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 3])
    graph = helper.make_graph([node], "g", [image], [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1])])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "a.onnx")
    expect(invoke("compile", "a.onnx"), ExitCode.LOWERING, "Det")


def test_a_model_without_a_fixed_shape(invoke: Callable[..., Result], tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["image"], ["logits"])
    tensor = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("image", "logits")]
    onnx.save(helper.make_model(helper.make_graph([node], "free", tensor[:1], tensor[1:])), tmp_path / "a.onnx")
    expect(invoke("compile", "a.onnx"), ExitCode.LOWERING, "has no fixed shape")


def test_a_file_that_is_no_model(invoke: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"\x00garbage")
    expect(invoke("compile", "a.onnx"), ExitCode.USAGE, "a.onnx is not a valid ONNX model")


def test_a_compilation_gets_its_trials_and_its_database(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: dict[str, object] = {}

    def compile_nothing(net: str, *_: object, **options: object) -> dict[str, object]:
        given.update(options)
        return {"net": net}

    monkeypatch.setattr("pipeline.artefacts.compile", compile_nothing)
    words = "compile mobilenet_v2 --tune-fallback 32 --database m.sqlite --resolution 96 --classes 7"
    assert invoke(*words.split()).exit_code == ExitCode.OK
    assert (given["tune_fallback"], given["database"]) == (32, Path("m.sqlite"))
    assert (given["resolution"], given["classes"]) == (96, 7)


def test_a_run_for_two_targets_shows_both(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[RunConfig] = []
    other = {"target": "x86-64-v3", "measured_ms": 1.625, "predicted_ms": 2.5}

    def run(config: RunConfig, **_: object) -> dict[str, object]:
        configs.append(config)
        return {"target": "x86", "measured_ms": 1.125, "predicted_ms": 1.0, "also": {"x86-64-v3": other}, "run": "out"}

    monkeypatch.setattr("pipeline.api.run", run)
    words = "run --target x86 --target x86-64-v3 --shares 2,1 --out out"
    shown = invoke(*words.split())
    assert shown.exit_code == ExitCode.OK, shown.output
    assert configs == [make_config(also=("x86-64-v3",), shares=(2.0, 1.0))]
    assert "Every target" in shown.output
    assert "1.625" in shown.output
    assert json.loads(invoke(*words.split(), "--json").stdout)["also"] == {"x86-64-v3": other}
    expect(invoke("run", "--shares", "2;1"), ExitCode.USAGE, "are not numbers")
    expect(invoke("run", "--target", "x86", "--target", "x86"), ExitCode.USAGE, "given twice")


def test_a_sweep_gets_its_options_and_prints_its_points(
    invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    points = [
        {"budget": "0.1x", "run": "0.1x", "error": "No network fits."},
        {"budget": "0.5x", "budget_ms": 1.25, "measured_ms": 1.125, "supernet_top1": 0.5, "on_front": True},
    ]

    def sweep(config: RunConfig, budgets: list[str], **options: object) -> dict[str, object]:
        given.update(config=config, budgets=budgets, **options)
        return {"sweep": "out", "plot": "out/front.html", "points": points}

    monkeypatch.setattr("pipeline.api.sweep", sweep)
    words = "sweep --budgets 0.1x,0.5x --algorithm two-path --max-params 1000 --width 0.5 --train --out out"
    shown = invoke(*words.split())
    assert shown.exit_code == ExitCode.OK, shown.output
    assert given["config"] == make_config(algorithm="two-path", max_params=1000, width=0.5)
    assert (given["budgets"], given["train"], given["out"]) == (["0.1x", "0.5x"], True, Path("out"))
    assert "0.1x: No network fits." in shown.output
    assert "1.125" in shown.output
    assert "The front is drawn in out/front.html" in shown.output
    assert json.loads(invoke(*words.split(), "--json").stdout)["points"] == points


def test_ctrl_c_in_a_sweep_says_how_to_go_on(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.api.sweep", interrupt)
    expect(invoke("sweep"), ExitCode.INTERRUPTED, "Stopped. To go on: the same command")


def test_targets_as_json(invoke: Callable[..., Result]) -> None:
    found = json.loads(invoke("targets", "--json").stdout)
    names = [target["name"] for target in found]
    assert names[:3] == ["x86", "x86-64-v3", "x86-64-v4"]
    assert {"android-arm64", "raspberry-pi-5", "armv7-cortex-a9", "riscv64"} <= set(names)


def test_help_loads_neither_torch_nor_tvm() -> None:
    code = (
        "import sys; from pipeline.cli import app; from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "print(sorted({'torch', 'tvm'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_long_list_is_counted_for_people_and_whole_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    result = {"kernels": [f"k{i}" for i in range(7)], "fallbacks": ["conv"]}
    show(result, as_json=False)
    assert capsys.readouterr().out.split("\n")[:2] == [
        f"{'kernels':<24}7 (--json lists them)",
        f"{'fallbacks':<24}conv",
    ]
    show(result, as_json=True)
    assert json.loads(capsys.readouterr().out) == result
