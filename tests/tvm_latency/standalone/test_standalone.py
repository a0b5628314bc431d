"""The plain C form: in a user's program, under valgrind and ThreadSanitizer, and netbench."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from targets.registry import get_target
from tvm_latency.build import Compiled, compile_onnx
from tvm_latency.loaded import LoadedNetwork
from tvm_latency.standalone.cpu_facts import features_of
from tvm_latency.standalone.write import (
    HEADER,
    LIBRARY,
    NETBENCH,
    SOURCES,
    SelfTest,
    StandaloneError,
    probe_input,
    write_sources,
    write_standalone,
)

pytestmark = pytest.mark.compiles
PROGRAM = Path(__file__).with_name("program.c")
# 256-bit vectors: valgrind knows no more.
TARGET = replace(get_target("x86-64-v3"), cores=2, threads=2)
CC = shutil.which("cc") or "cc"
needs_cc = pytest.mark.skipif(not shutil.which("cc"), reason="there is no C compiler")


@pytest.fixture(scope="module")
def compiled(mobile_network: Callable[[int], onnx.ModelProto]) -> Compiled:
    """With enough pixels for two threads."""
    return compile_onnx(mobile_network(130), TARGET)


@pytest.fixture(scope="module")
def expected(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What the library for TVM's runtime answers: the same kernels."""
    library = compiled.export(tmp_path_factory.mktemp("library") / "model.so")
    return LoadedNetwork(library)(probe_input((1, 3, 130, 130)))


@pytest.fixture(scope="module")
def artefact(compiled: Compiled, expected: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artefact")
    write_standalone(compiled, folder, "a test", SelfTest(expected, 1e-6))
    return folder


def run(*words: Any, returns: int = 0, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, timeout=timeout)
    assert done.returncode == returns, done.stdout + done.stderr
    return done


def link(artefact: Path, folder: Path, options: Sequence[str] = (), library: Sequence[Path] = ()) -> Path:
    wrapped = [f"-Wl,--wrap={name}" for name in ("malloc", "calloc", "realloc", "posix_memalign")]
    objects = library or [artefact / LIBRARY]
    run(CC, "-O1", "-g", *options, f"-I{artefact}", PROGRAM, *objects, *wrapped, "-lpthread", "-o", folder / "program")
    return folder / "program"


def answers(program: Sequence[Any], folder: Path, runs: int = 20) -> tuple[np.ndarray, str]:
    probe_input((1, 3, 130, 130)).tofile(folder / "input")
    done = run(*program, folder / "input", folder / "output", runs)
    return np.fromfile(folder / "output", np.float32).reshape(2, -1), done.stdout


@needs_cc
def test_a_program_gets_the_bits_of_the_tvm_library_and_allocates_nothing(
    artefact: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """Two instances of two threads each, inputs and outputs that begin anywhere."""
    found, printed = answers([link(artefact, tmp_path)], tmp_path)
    assert expected.any()
    for output in found:
        assert output.tobytes() == expected.tobytes()
    assert printed == "allocations 0\n"


@needs_cc
def test_nothing_is_needed_but_libc_and_threads(artefact: Path, tmp_path: Path) -> None:
    program = link(artefact, tmp_path, ["-Wl,-z,defs"])
    libraries = run("ldd", program).stdout
    names = {line.split()[0].rpartition("/")[2].partition(".")[0] for line in libraries.splitlines()}
    assert names <= {"linux-vdso", "libc", "libpthread", "libm", "ld-linux-x86-64"}


@needs_cc
def test_no_name_of_the_library_is_visible_outside_of_what_links_it(artefact: Path, tmp_path: Path) -> None:
    shared = tmp_path / "libuser.so"
    run(CC, "-shared", "-Wl,--whole-archive", artefact / LIBRARY, "-Wl,--no-whole-archive", "-lpthread", "-o", shared)
    listed = run("nm", "-D", "--defined-only", shared).stdout.split("\n")
    names = {line.split()[-1] for line in listed if line}
    # TVM's own entry of each object file, which nothing calls.
    assert {name for name in names if name.startswith(("netlathe", "__tvm", "__TVM"))} <= {"__tvm_ffi_main"}


@needs_cc
@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_valgrind_finds_nothing(artefact: Path, expected: np.ndarray, tmp_path: Path) -> None:
    valgrind = ["valgrind", "--error-exitcode=9", "--leak-check=full", "--fair-sched=yes", "-q"]
    found, _ = answers([*valgrind, link(artefact, tmp_path)], tmp_path, runs=2)
    np.testing.assert_allclose(found, np.broadcast_to(expected.reshape(-1), found.shape), rtol=0, atol=1e-6)


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("system", [[], ["-U__linux__"]], ids=["linux", "any"])
def test_thread_sanitizer_finds_nothing(
    system: list[str], compiled: Compiled, artefact: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    """Of the runtime, compiled with it, also as it is on a system without futexes; kernels tell it nothing."""
    library = write_sources(compiled, tmp_path, "a test", SelfTest(expected, 1e-6))
    sources = [file for file in library if file.suffix != ".o"]
    objects = [file for file in library if file.suffix == ".o"]
    assert len(sources) > 3
    program = link(artefact, tmp_path, ["-fsanitize=thread", *system, f"-I{tmp_path}", *map(str, sources)], objects)
    # Addresses that the sanitizer does not expect.
    found, _ = answers(["setarch", "-R", program], tmp_path)
    assert all(output.tobytes() == expected.tobytes() for output in found)


def test_netbench_tests_itself_and_answers_in_json(artefact: Path) -> None:
    done = run(artefact / NETBENCH, "--num_runs=3", "--min_secs=0", "--num_threads=2", "--json", "--profile")
    found = json.loads(done.stdout)
    assert found["net"] == "a test"
    assert (found["runs"], found["threads"]) == (3, 2)
    assert (found["max_abs_error"], found["same_top1"]) == (0.0, True)
    times = [found[name] for name in ("min_ms", "median_ms", "p90_ms", "p99_ms", "max_ms")]
    assert times == sorted(times)
    assert found["min_ms"] <= found["mean_ms"] <= found["max_ms"]
    operators = found["operators"]
    assert len(operators) == 5
    assert 0 < sum(operator["mean_ms"] for operator in operators) <= found["max_ms"]


def test_netbench_says_what_people_read(artefact: Path) -> None:
    lines = run(artefact / NETBENCH, "--num_runs=2", "--min_secs=0").stdout.splitlines()
    assert lines[:2] == ["a test", "1 thread(s), 2 runs, largest error 0"]
    assert [line.split()[0] for line in lines[2:]] == ["min_ms", "mean_ms", "median_ms", "p90_ms", "p99_ms", "max_ms"]
    assert run(artefact / NETBENCH, "--help").stdout.startswith("a test\nusage: netbench ")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--nonsense=1", "no such option: --nonsense=1"),
        ("--num_runs", "no such option, or it lacks =VALUE: --num_runs"),
        ("--num_runs=many", "not a number, or too large: --num_runs=many"),
        ("--num_runs=-1", "not a number, or too large: --num_runs=-1"),
        ("--num_runs=99999999999999999999", "not a number, or too large: --num_runs=99999999999999999999"),
        ("--num_threads=3", "--num_threads must be between 1 and what the network was compiled for"),
    ],
)
def test_netbench_refuses_options(artefact: Path, option: str, message: str) -> None:
    assert run(artefact / NETBENCH, option, returns=2).stderr == f"netbench: {message}\n"


def test_netbench_refuses_cpus_that_are_not_there(artefact: Path) -> None:
    done = run(artefact / NETBENCH, "--cpu_mask=8000000000000000", returns=4)
    assert done.stderr == "netbench: no CPU of the mask 8000000000000000 is there or may be chosen.\n"


def test_netbench_finds_a_wrong_output(compiled: Compiled, expected: np.ndarray, tmp_path: Path) -> None:
    wrong = expected.copy()
    wrong.flat[3] += 0.5
    write_standalone(compiled, tmp_path, "a test", SelfTest(wrong, 0.25))
    done = run(tmp_path / NETBENCH, returns=1)
    assert done.stderr == "netbench: the output is off by 0.5, more than rounding explains (0.25).\n"


def test_netbench_refuses_a_cpu_that_lacks_something(
    compiled: Compiled, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FMA4 was AMD's alone, until 2017."""
    monkeypatch.setattr("tvm_latency.standalone.cpu_facts.features_of", lambda target: ["avx2", "fma4"])
    write_standalone(compiled, tmp_path, "a test", SelfTest(expected, 1e-6))
    done = run(tmp_path / NETBENCH, returns=3)
    assert done.stderr == (
        "netbench: this CPU lacks fma4, which the network was compiled for. Compile it for this CPU.\n"
    )


def test_features_are_those_of_the_target() -> None:
    found = features_of(get_target("x86-64-v3"))
    assert {"avx2", "fma", "bmi2"} <= set(found)
    assert not any(name.startswith("avx512") for name in found)
    assert "neon" in features_of(get_target("android-arm64"))
    assert {"fullfp16", "dotprod"} <= set(features_of(get_target("raspberry-pi-5")))


def test_the_header_says_shapes(artefact: Path) -> None:
    header = (artefact / HEADER).read_text()
    assert "#define NETLATHE_INPUT_SIZE 50700   /* floats: 1 x 3 x 130 x 130 */" in header
    assert "#define NETLATHE_OUTPUT_SIZE 10 /* floats: 1 x 10 */" in header
    assert "#define NETLATHE_MAX_THREADS 2 " in header


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(float[1,8] x) => (float[1,8] y, float[1,8] z) { y = Sigmoid (x)  z = Softmax (y) }", "needs TVM's runtime"),
        ("(float[1,8,9,9] x) => (int64[1,1,9,9] y) { a = Sigmoid (x)  y = ArgMax <axis=1> (a) }", "int64[1, 1, 9, 9]"),
        ("(float[1,8] x, float[1,8] z) => (float[1,8] y) { a = Sigmoid (x)  y = Add (a, z) }", "answers one"),
    ],
)
def test_networks_without_a_plain_c_form(text: str, message: str, parse_model: Any, tmp_path: Path) -> None:
    compiled = compile_onnx(parse_model(text), TARGET)
    with pytest.raises(StandaloneError) as error:
        write_standalone(compiled, tmp_path, "a test", SelfTest(np.zeros(1, np.float32), 1.0))
    assert message in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("board", ["raspberry-pi-4", "android-arm64"])
def test_boards_without_cryptography_are_not_refused(board: str) -> None:
    """LLVM says of these cores that they have it. A Raspberry Pi 4 says of itself: fp asimd evtstrm crc32 cpuid."""
    arm = (SOURCES / "cpu" / "cpu.c").read_text().partition("#if defined(__aarch64__)")[2].partition("#elif")[0]
    checked = set(re.findall(r'\{"([^"]+)", HWCAP', arm))
    assert {"neon", "dotprod", "fullfp16"} <= checked
    assert checked.intersection(features_of(get_target(board))) == {"neon"}
