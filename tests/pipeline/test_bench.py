from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import runtimes
from pipeline.bench import BenchEntry, BenchError, BenchTiming, compare_runtimes, speedup, time_interleaved
from pipeline.bench_child import disagreement, interleaved, work
from pipeline.runtimes import PEERS, RUNTIMES, BenchModel, RuntimeUnavailableError, find_peers
from supernet.presets import DIGITS
from tvm_latency.onnx_graph import network_graph, random_values

OPS = DIGITS.baseline.op_specs()
NOISY_OPENVINO = """
import os
import numpy as np

Tensor = np.asarray

class Core:
    def compile_model(self, path, *_):
        assert os.path.isabs(path) and os.path.exists(path)
        assert os.environ["TVM_BIND_THREADS"] == "0"
        return self

    def create_infer_request(self):
        return self

    def set_input_tensor(self, image):
        print("loading")

    def infer(self):
        print("running", flush=True)
        return [np.zeros((1, 2))]
"""
SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> BenchModel:
    path = tmp_path_factory.mktemp("bench") / "net.onnx"
    path.write_bytes(network_graph(OPS).SerializeToString())
    return BenchModel(onnx_file=str(path), library="")


def timing(runtime: str, *rounds: tuple[float, ...]) -> BenchTiming:
    return BenchTiming("net", runtime, rounds)


def test_calls_alternate_between_runs_and_the_order_turns_round() -> None:
    log: list[str] = []
    ticks = count()
    samples = interleaved(
        [lambda: log.append("A"), lambda: log.append("B")], rounds=3, calls=2, clock=lambda: float(next(ticks))
    )
    assert "".join(log) == "AAABBB" + "BBBAAA" + "AAABBB"
    assert samples == [[[1.0, 1.0]] * 3] * 2


def test_there_is_a_pause_before_every_turn() -> None:
    log: list[str] = []
    interleaved(
        [lambda: log.append("A"), lambda: log.append("B")], 1, 1, clock=lambda: 0.0, pause=lambda: log.append("-")
    )
    assert "".join(log) == "-AA-BB"


def test_speedup_is_taken_pair_by_pair() -> None:
    # The machine is three times as slow in the second round: it meets both, so the ratio stays 2.
    assert speedup(timing("netlathe", (1.0,), (3.0,), (1.0,)), timing("x", (2.0,), (6.0,), (2.0,))) == 2.0


def test_the_fastest_peer_is_named() -> None:
    table = compare_runtimes([timing("netlathe", (2.0, 4.0)), timing("slow", (9.0, 9.0)), timing("fast", (6.0, 6.0))])
    assert table["best_peer"] == "fast"
    assert table["speedup_over_best_peer"] == 2.0
    assert table["results"][0] == {"runtime": "netlathe", "median_ms": 3e3, "min_ms": 2e3, "p90_ms": 3.8e3, "runs": 2}


def test_without_peers_there_is_no_ratio() -> None:
    table = compare_runtimes([timing("netlathe", (2.0, 2.0))])
    assert table["best_peer"] is None
    assert table["speedup_over_best_peer"] is None


def test_disagreement_is_found_beyond_rounding_only() -> None:
    first = np.array([[1.0, 20.0]], dtype=np.float32)
    assert disagreement([("a", first), ("b", first * (1 + 1e-6))], 1e-4) is None
    assert "b and a disagree by 0.02" in str(disagreement([("a", first), ("b", first * 1.001)], 1e-4))
    assert "disagree by inf" in str(disagreement([("a", first), ("b", first[:, :1])], 1e-4))
    assert disagreement([("a", first), ("b", first * np.nan)], 1e-4) is not None
    assert "a answers with something that is not a finite" in str(
        disagreement([("a", first * np.inf), ("b", first)], 1e-4)
    )


def test_onnx_runtime_is_timed_in_a_child(model: BenchModel) -> None:
    entries = [BenchEntry("one", "onnxruntime", model), BenchEntry("two", "onnxruntime", model)]
    timings = time_interleaved(entries, SHAPE, threads=1, rounds=2, calls=3)
    assert [(t.net, t.runtime, len(t.samples_s)) for t in timings] == [
        ("one", "onnxruntime", 6),
        ("two", "onnxruntime", 6),
    ]
    assert all(0 < sample < 1 for t in timings for sample in t.samples_s)


def test_a_child_is_safe_from_the_users_folder_and_from_what_a_runtime_prints(
    model: BenchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    libraries = tmp_path / "libraries"
    libraries.mkdir()
    (libraries / "openvino.py").write_text(NOISY_OPENVINO)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('the user has a pipeline too')")
    (tmp_path / "net.onnx").write_bytes(Path(model.onnx_file).read_bytes())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(libraries))
    entry = BenchEntry("n", "openvino", BenchModel(onnx_file="net.onnx", library=""))
    (found,) = time_interleaved([entry], SHAPE, threads=1, rounds=1, calls=2)
    assert len(found.samples_s) == 2


def test_the_child_has_the_variables_that_were_asked_for(
    model: BenchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "openvino.py").write_text(
        NOISY_OPENVINO.replace('["TVM_BIND_THREADS"] == "0"', '["MAX_ISA"] == "AVX2"')
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    entry = BenchEntry("n", "openvino", BenchModel(onnx_file=model.onnx_file, library=""))
    with pytest.raises(BenchError, match="MAX_ISA"):
        time_interleaved([entry], SHAPE, threads=1, rounds=1, calls=1)
    assert time_interleaved([entry], SHAPE, threads=1, rounds=1, calls=1, environment={"MAX_ISA": "AVX2"})


def test_rounds_are_shared_out_to_processes(model: BenchModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    (tmp_path / "openvino.py").write_text(
        NOISY_OPENVINO.replace('print("loading")', f'open({str(log)!r}, "a").write(f"{{os.getpid()}}\\n")')
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    entry = BenchEntry("n", "openvino", BenchModel(onnx_file=model.onnx_file, library=""))
    (found,) = time_interleaved([entry], SHAPE, threads=1, rounds=4, calls=2, processes=3)
    assert [len(calls) for calls in found.rounds_s] == [2] * 4
    assert len(set(log.read_text().split())) == 3


def test_runtimes_that_disagree_are_an_error(model: BenchModel, tmp_path: Path) -> None:
    other = tmp_path / "other.onnx"
    other.write_bytes(network_graph(OPS, random_values(1)).SerializeToString())
    job: dict[str, Any] = {
        "entries": [
            {"net": "n", "runtime": "onnxruntime", "model": {"onnx_file": path, "library": ""}}
            for path in (model.onnx_file, str(other))
        ],
        "shape": SHAPE,
        "threads": 1,
    }
    assert "do not compute the same for n" in work(job)["error"]


def test_a_crash_of_the_child_is_a_sentence(model: BenchModel) -> None:
    broken = BenchEntry("n", "onnxruntime", BenchModel(onnx_file="nowhere.onnx", library=""))
    with pytest.raises(BenchError, match=r"The timing process ended with status 1: .*nowhere.onnx"):
        time_interleaved([broken], SHAPE, threads=1)


def test_a_child_that_takes_too_long_is_stopped(model: BenchModel) -> None:
    with pytest.raises(BenchError, match=r"took more than 0.01 s and was stopped"):
        time_interleaved([BenchEntry("n", "onnxruntime", model)], SHAPE, threads=1, deadline_s=0.01)


def test_more_threads_than_cores(model: BenchModel) -> None:
    with pytest.raises(BenchError, match="1000 threads were asked for"):
        time_interleaved([BenchEntry("n", "onnxruntime", model)], SHAPE, threads=1000)


def test_pytorch_needs_more_than_an_onnx_file(model: BenchModel) -> None:
    with pytest.raises(BenchError, match=r"PyTorch cannot run an .onnx file"):
        time_interleaved([BenchEntry("n", "torch", model)], SHAPE, threads=1)


def test_peers_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [peer.name for peer in find_peers("onnxruntime, torch,onnxruntime")] == ["onnxruntime", "torch"]
    assert find_peers("") == []
    with pytest.raises(RuntimeUnavailableError, match=r"Unknown runtime 'onnx-runtime'. Did you mean onnxruntime\?"):
        find_peers("onnx-runtime")
    monkeypatch.setattr(runtimes, "find_spec", lambda name: None if name in ("openvino", "pnnx", "torch") else name)
    with pytest.raises(RuntimeUnavailableError, match="Install it with `pip install openvino`"):
        find_peers("openvino")
    with pytest.raises(RuntimeUnavailableError, match="Install it with `pip install pnnx`"):
        find_peers("ncnn")
    with pytest.raises(RuntimeUnavailableError, match=r"torch.compile is not installed here"):
        find_peers("litert,torch.compile")


def test_every_runtime_stands_under_its_name() -> None:
    assert [runtime.name for runtime in RUNTIMES.values()] == list(RUNTIMES)
    assert PEERS == ("onnxruntime", "openvino", "ncnn", "litert", "torch", "torch.compile")
