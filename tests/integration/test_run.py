"""A whole run as a user makes it: from one command to a verified artefact; killed anywhere, and resumed."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import ExitCode
from pipeline.files import sha256
from tvm_latency.loaded import LoadedNetwork

pytestmark = [pytest.mark.slow, pytest.mark.compiles]


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def rows(home: Path) -> list[tuple[Any, ...]]:
    with sqlite3.connect(next(home.rglob("measurements.sqlite"))) as connection:
        return connection.execute("SELECT op_key, evict_bytes, samples_s FROM measurement ORDER BY id").fetchall()


def test_summary_has_every_field_and_keeps_its_promises(finished: Path) -> None:
    summary = read(finished / "summary.json")
    assert list(summary) == [
        "target",
        "weights",
        "dtype",
        "budget_ms",
        "predicted_ms",
        "measured_ms",
        "rederivations",
        "search_seconds",
        "calibrate_seconds",
        "train_seconds",
        "architecture",
        "top1",
        "baseline",
        "speedup_over_baseline",
        "cost_model",
        "verify",
        "artefacts",
        "also",
    ]
    assert list(summary["baseline"]) == ["net", "measured_ms", "top1"]
    assert list(summary["cost_model"]) == ["within_5pct", "within_10pct", "spearman", "networks"]
    assert 0 < summary["measured_ms"] <= summary["budget_ms"]
    assert summary["verify"]["max_abs_error"] <= 1e-4
    assert summary["verify"]["top1_agreement"] == 1.0
    assert all((finished / path).is_file() for path in summary["artefacts"].values())
    assert (finished / "report.html").is_file()
    derived = read(finished / "derive" / "result.json")
    assert sum(op["seconds"] for op in derived["operators"]) == pytest.approx(derived["predicted_s"])


def test_the_artefact_answers_what_pytorch_answered(finished: Path) -> None:
    folder = finished / "deploy"
    manifest = read(folder / "manifest.json")
    assert {name: sha256(folder / name) for name in manifest["files"]} == manifest["files"]
    reference = np.load(folder / "reference.npz")
    output = LoadedNetwork(folder / "model.so")(reference["image"])
    assert np.abs(output - reference["output"]).max() <= manifest["verification"]["max_abs_error"]
    assert manifest["verification"]["against"] == "PyTorch"
    assert manifest["fallbacks"] == []


def test_resuming_a_finished_run_does_nothing(finished: Path, cli: Any) -> None:
    before, measured = (finished / "manifest.json").read_bytes(), rows(cli.folder)
    page = (finished / "report.html").read_bytes()
    for name in ("report.html", "summary.json"):
        (finished / name).unlink()
    shown = json.loads(cli("run", "--resume", "--out", "whole", "--json"))
    assert {name: value for name, value in shown.items() if name != "run"} == read(finished / "summary.json")
    assert (finished / "manifest.json").read_bytes() == before
    assert (finished / "report.html").read_bytes() == page, "what was deleted is there again"
    assert rows(cli.folder) == measured


def test_commands_take_a_run_folder(finished: Path, cli: Any) -> None:
    manifest = json.loads(cli("compile", "whole", "--out", "again", "--data", "digits", "--json"))
    assert manifest["files"]["model.onnx"] == read(finished / "deploy" / "manifest.json")["files"]["model.onnx"]
    assert manifest["verification"]["top1_agreement"] == 1.0
    bench = json.loads(cli("bench", "whole", "--against", "onnxruntime,torch", "--json"))
    (table,) = bench["nets"]
    assert set(bench) == {"target", "threads", "weights", "dtype", "nets"}
    assert set(table) == {"net", "macs", "results", "best_peer", "speedup_over_best_peer"}
    assert [result["runtime"] for result in table["results"]] == ["netlathe", "onnxruntime", "torch"]
    assert all(set(r) == {"runtime", "median_ms", "min_ms", "p90_ms", "runs"} for r in table["results"])
    cli("report", "whole")


def test_a_second_calibration_measures_nothing_and_prediction_follows(finished: Path, cli: Any) -> None:
    measured = rows(cli.folder)
    found = json.loads(cli("calibrate", "--space", "tiny", "--json"))
    assert found["measured"] == 0
    assert rows(cli.folder) == measured
    predicted = json.loads(cli("predict", "whole", "--space", "tiny", "--json"))
    assert predicted["measured_operators"] == predicted["operators"]
    assert predicted["predicted_ms"] == pytest.approx(read(finished / "summary.json")["predicted_ms"])


def test_a_calibration_is_transferred_to_another_target_by_a_few_networks(finished: Path, cli: Any) -> None:
    transfer = ("calibrate", "--space", "tiny", "--target", "x86-64-v3", "--from", "x86", "--measurements", "6")
    # The source: the run has measured all of it.
    cli("calibrate", "--space", "tiny")
    before = rows(cli.folder)
    found = json.loads(cli(*transfer, "--json"))
    assert (found["measured"], found["blocks"], found["networks"]["count"]) == (6, None, 1)
    assert {key[:4] for key, *_ in rows(cli.folder)[len(before) :]} == {"net:"}
    predicted = json.loads(cli("predict", "whole", "--space", "tiny", "--target", "x86-64-v3", "--json"))
    assert predicted["measured_operators"] == 0
    # Its networks were measured on a machine that the tests share, so how long is nobody's promise.
    assert 0 < predicted["predicted_ms"] < 1000
    with cli.start("calibrate", "--space", "digits", "--target", "x86-64-v3", "--from", "x86") as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == 9
    assert "Run `netlathe calibrate --target x86 --space digits" in " ".join(said.split())


# The line after which the process is killed: in stages that take their time not the first, but one in the middle.
KILLS = (
    "setup",
    "baseline",
    "search 4/5",
    "derive",
    "train 2/3",
    "export",
    "compile",
    "verify",
    "bench",
    "deploy",
    "report",
)


def test_killed_and_resumed_equals_never_stopped(finished: Path, cli: Any) -> None:
    # Latencies are measurements, so the calibration is taken over; the rest must then be the same to the last bit.
    stopped = cli.folder / "stopped"
    shutil.copytree(finished, stopped, ignore=shutil.ignore_patterns("manifest.json"))
    manifest = read(finished / "manifest.json")
    kept = {name: entry for name, entry in manifest["stages"].items() if name == "calibrate"}
    for name in set(manifest["stages"]) - set(kept):
        shutil.rmtree(stopped / name)
    (stopped / "manifest.json").write_text(json.dumps({**manifest, "stages": kept}))
    for line in KILLS:
        cli.kill_after(line, "run", "--resume", "--out", "stopped")
    cli("run", "--resume", "--out", "stopped")

    for stage, same in (("search", ("probabilities", "history")), ("derive", ("architecture", "predicted_s"))):
        first, second = read(finished / stage / "result.json"), read(stopped / stage / "result.json")
        assert {name: first[name] for name in same} == {name: second[name] for name in same}
    first, second = (read(folder / "train" / "result.json") for folder in (finished, stopped))
    for role in ("winner", "baseline"):
        assert first[role]["history"] == second[role]["history"]
        assert first[role]["top1"] == second[role]["top1"]
    assert sha256(finished / "export" / "winner.onnx") == sha256(stopped / "export" / "winner.onnx")
    assert not (stopped / "superseded").exists()


def test_a_killed_calibration_measures_nothing_twice(cli: Any) -> None:
    arguments = ("calibrate", "--space", "tiny", "--threads", "1", "--database", "killed/m.sqlite")
    # 29 operators, 6 networks, a heavy one and the baseline, twelve rounds of each.
    cli.kill_after("measure 111/444", *arguments)
    database = cli.folder / "killed" / "m.sqlite"
    with sqlite3.connect(database) as connection:
        before = connection.execute("SELECT id, op_key, samples_s FROM measurement").fetchall()
    assert 111 <= len(before) < 444
    found = json.loads(cli(*arguments, "--json"))
    with sqlite3.connect(database) as connection:
        after = connection.execute("SELECT id, op_key, samples_s FROM measurement").fetchall()
    assert after[: len(before)] == before
    rounds = Counter(key for _, key, _ in after)
    assert len(rounds) == found["reused"] + found["measured"] == 37
    # As many again of what was noisy.
    assert set(rounds.values()) <= {12, 24}
    assert not list((cli.folder / "killed" / "artefacts").glob("[!.]*"))


def test_a_corrupt_database_and_checkpoint_are_moved_aside(finished: Path, cli: Any) -> None:
    broken = cli.folder / "broken"
    broken.mkdir()
    (broken / "m.sqlite").write_bytes(b"SQLite format 3\x00" + b"garbage" * 500)
    said = cli.kill_after("build 1/37", "calibrate", "--space", "tiny", "--database", "broken/m.sqlite")
    assert "m.sqlite is damaged" in said
    assert "it was moved to broken/m.sqlite.corrupt-1 and an empty one started" in said
    assert (broken / "m.sqlite.corrupt-1").read_bytes().startswith(b"SQLite format 3\x00garbage")

    cut = cli.folder / "cut"
    shutil.copytree(finished, cut)
    manifest = read(cut / "manifest.json")
    manifest["stages"]["train"]["outputs"] = {}
    (cut / "manifest.json").write_text(json.dumps(manifest))
    (cut / "train" / "winner.checkpoint").write_bytes(b"half a file")
    said = cli.kill_after("train 1/3", "run", "--resume", "--out", "cut")
    assert "winner.checkpoint is corrupt. It was moved to winner.checkpoint.corrupt-1" in said
    assert (cut / "train" / "winner.checkpoint.corrupt-1").read_bytes() == b"half a file"


def test_an_impossible_budget_names_the_fastest_network_before_any_search(finished: Path, cli: Any) -> None:
    with cli.start("run", "--space", "tiny", "--budget", "0.01x", "--out", "impossible") as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == ExitCode.BUDGET
    assert re.search(
        r"No network of space tiny fits .* ms\. The fastest, `r16 .*`, takes .* ms, when it is run: ", said
    )
    assert "Traceback" not in said
    assert not (cli.folder / "impossible" / "search").exists()
