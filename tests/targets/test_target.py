"""Targets are data; detection is parsing, tested on texts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tvm
from tvm.target.codegen import llvm_get_cpu_archlist, llvm_get_cpu_features

from targets.boards import BOARDS
from targets.host import (
    DEFAULT_CACHES,
    LINUX_NAMES,
    Host,
    cache_sizes,
    detect_host,
    one_cpu_per_core,
    parse_cpu_list,
    parse_cpuinfo,
    parse_size,
)
from targets.registry import TARGETS, get_target
from targets.target import Target, TargetError


def llvm_features(**attributes: object) -> frozenset[str]:
    """What LLVM may use for a target of these attributes."""
    target = tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu", **attributes})
    return frozenset(map(str, llvm_get_cpu_features(target)))


IMPLIED = llvm_features(mcpu="znver5")
FLAGS = frozenset(LINUX_NAMES.values())
ZEN5 = Host(
    machine="x86_64",
    cpu_model="AMD EPYC",
    llvm_cpu="znver5",
    llvm_features=IMPLIED,
    flags=FLAGS,
    cores=2,
    l1d_bytes=48 << 10,
    l2_bytes=1 << 20,
    l3_bytes=32 << 20,
)


def hiding(*words: str) -> Host:
    """A Zen 5 whose hypervisor hides the flags that begin with these words."""
    return replace(ZEN5, flags=frozenset(flag for flag in FLAGS if not flag.startswith(words)))


@pytest.mark.parametrize(
    ("host", "bits", "registers"),
    [(ZEN5, 512, 32), (hiding("avx512"), 256, 16), (hiding("avx", "fma", "f16c"), 128, 16), (hiding(""), 128, 16)],
)
def test_the_vector_unit_follows_the_flags_not_the_name(host: Host, bits: int, registers: int) -> None:
    target = TARGETS["x86"](host)
    assert (target.vector_bits, target.vector_registers) == (bits, registers)
    assert target.lanes == bits // 32


@pytest.mark.parametrize("words", [("avx512",), ("avx512_bf16",), ("avx2",), ("avx", "fma", "f16c"), ("bmi1",), ("",)])
def test_llvm_uses_nothing_that_is_hidden(words: tuple[str, ...]) -> None:
    """A hypervisor may hide features of a CPU whose name implies them, and their use is death by SIGILL."""
    host = hiding(*words)
    attributes = TARGETS["x86"](host).tvm_attributes()
    assert attributes["mattr"]
    used = llvm_features(mcpu="znver5", mattr=attributes["mattr"]) & LINUX_NAMES.keys()
    assert not {LINUX_NAMES[name] for name in used} - host.flags


def test_without_avx_no_cpu_of_llvm_has_any_of_it() -> None:
    """What has no flag in Linux goes with what it builds on."""
    for mcpu in map(str, llvm_get_cpu_archlist(tvm.target.Target({"kind": "llvm", "mtriple": "x86_64-linux-gnu"}))):
        implied = llvm_features(mcpu=mcpu)
        hidden = replace(ZEN5, llvm_cpu=mcpu, llvm_features=implied, flags=frozenset()).hidden_features
        if hidden:
            left = llvm_features(mcpu=mcpu, mattr=[f"-{name}" for name in hidden])
            assert not [name for name in left if name.startswith(("avx", "vaes", "vpcl", "sm3", "sm4", "sha512"))], mcpu


def test_only_what_the_cpu_implies_is_switched_off() -> None:
    haswell = replace(ZEN5, llvm_cpu="haswell", llvm_features=llvm_features(mcpu="haswell"))
    assert TARGETS["x86"](haswell).features == ()
    assert TARGETS["x86"](replace(haswell, flags=FLAGS - {"bmi1", "avx512f", "xop"})).features == ("-bmi",)


def test_detection_asks_llvm_about_this_cpu() -> None:
    host = detect_host()
    assert "avx" not in host.flags or "avx" in host.llvm_features
    assert host.llvm_features >= {"sse2"} or host.machine != "x86_64"


def test_the_attributes_are_what_tvm_takes() -> None:
    target = TARGETS["x86"](hiding("avx512f"))
    assert target.tvm_attributes() == {
        "kind": "llvm",
        "mtriple": "x86_64-linux-gnu",
        "mcpu": "znver5",
        "num-cores": 1,
        "mattr": ["-avx512f"],
    }


def test_fingerprints_differ_where_rows_must_not_mix() -> None:
    native = TARGETS["x86"](ZEN5)
    others = [
        TARGETS["x86"](hiding("avx512f")),
        TARGETS["x86"](replace(ZEN5, cpu_model="Intel Xeon")),
        TARGETS["x86"](replace(ZEN5, l2_bytes=2 << 20)),
        TARGETS["x86-64-v3"](ZEN5),
        TARGETS["x86-64-v4"](ZEN5),
        native.with_threads(2),
        native.with_dtype("float16"),
        replace(native, runner="emulator"),
    ]
    assert len({target.fingerprint for target in [native, *others]}) == 1 + len(others)


def test_a_fingerprint_reads_as_a_line() -> None:
    target = TARGETS["x86"](hiding("avx512f"))
    assert target.fingerprint == "x86 AMD EPYC (2 cores, 48/1024/32768 KiB) code znver5-avx512f threads 1"


def test_the_portable_targets_have_their_own_vectors() -> None:
    assert TARGETS["x86-64-v3"](ZEN5).vector_bits == 256
    assert TARGETS["x86-64-v4"](hiding("avx512")).vector_bits == 512


def test_an_unknown_target_has_close_matches() -> None:
    with pytest.raises(TargetError, match=r"Unknown target 'x86-64-v33'\. Did you mean x86-64-v3"):
        get_target("x86-64-v33")


def test_x86_is_not_an_arm_machine() -> None:
    with pytest.raises(TargetError, match="this machine is aarch64"):
        TARGETS["x86"](replace(ZEN5, machine="aarch64"))


@pytest.mark.parametrize("threads", [0, 3])
def test_threads_are_at_most_the_cores(threads: int) -> None:
    with pytest.raises(TargetError, match="between 1 and that"):
        TARGETS["x86"](ZEN5).with_threads(threads)


def test_in_float16_a_vector_holds_twice_as_many_numbers() -> None:
    native = TARGETS["x86"](ZEN5)
    half = native.with_dtype("float16")
    assert (half.lanes, half.number_bytes) == (2 * native.lanes, 2)
    assert half.fingerprint.endswith("threads 1 in float16")
    assert native.with_dtype("float32") is native
    # Zen 5 has no such arithmetic: what the machine offers beyond its name is asked for.
    assert half.tvm_attributes()["mattr"] == ["+avx512fp16"]
    sapphire = replace(ZEN5, llvm_cpu="sapphirerapids", llvm_features=llvm_features(mcpu="sapphirerapids"))
    assert TARGETS["x86"](sapphire).with_dtype("float16").features == ()


def test_tf32_is_float32_that_gpus_multiply_shorter() -> None:
    gpu = get_target("cuda-sm90").with_dtype("tf32")
    assert (gpu.stored, gpu.number_bytes) == ("float32", 4)
    assert gpu.fingerprint.endswith(" in tf32")
    assert gpu.with_dtype("float32") == get_target("cuda-sm90")
    with pytest.raises(TargetError, match="x86-64-v3 does not compute in tf32, which GPUs from cuda-sm80 on do"):
        get_target("x86-64-v3").with_dtype("tf32")


@pytest.mark.parametrize(
    "target",
    [
        TARGETS["x86"](hiding("avx512_fp16")),
        TARGETS["x86"](hiding("avx512f")),
        TARGETS["x86-64-v4"](ZEN5),
        get_target("raspberry-pi-4"),
        get_target("android-arm64"),
        get_target("armv7-cortex-a9"),
        get_target("riscv64"),
    ],
    ids=lambda target: target.name,
)
def test_what_has_no_vectors_of_float16_says_what_has(target: Target) -> None:
    with pytest.raises(TargetError, match=f"{target.name} does not compute in float16: .*Cortex-A55.*--weights"):
        target.with_dtype("float16")


def test_llvm_takes_a_core_that_computes_in_float16_to_do_so() -> None:
    for board in BOARDS:
        if board.kind == "arm" and board.pointer_bits == 64:
            features = map(str, llvm_get_cpu_features(tvm.target.Target(board.tvm_attributes())))
            assert ("fullfp16" in features) == (board.float16 is not None), board.name


def test_cpuinfo_of_the_first_cpu() -> None:
    text = (
        "processor : 0\nmodel name\t: AMD EPYC 9B45\nflags\t\t: fpu avx2 avx512f\n\nprocessor : 1\nmodel name : other\n"
    )
    assert parse_cpuinfo(text) == ("AMD EPYC 9B45", frozenset({"fpu", "avx2", "avx512f"}))


def test_cpuinfo_without_a_name() -> None:
    assert parse_cpuinfo("") == ("unknown CPU", frozenset())


@pytest.mark.parametrize(("text", "size"), [("48K\n", 48 << 10), ("1024K", 1 << 20), ("32M", 32 << 20), ("512", 512)])
def test_sizes_as_sysfs_writes_them(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_cache_sizes_by_level_and_kind(tmp_path: Path) -> None:
    for i, (level, kind, size) in enumerate(
        [("1", "Instruction", "32K"), ("1", "Data", "48K"), ("2", "Unified", "1M")]
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert cache_sizes(tmp_path) == {"l1d": 48 << 10, "l2": 1 << 20, "l3": DEFAULT_CACHES["l3"]}


def test_cpu_lists_as_sysfs_writes_them() -> None:
    assert parse_cpu_list("0-2,8\n") == (0, 1, 2, 8)


@pytest.mark.parametrize("parse", [parse_size, parse_cpu_list])
def test_what_sysfs_never_writes(parse: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        parse("many")


def test_hyper_threads_share_a_core() -> None:
    siblings = {0: (0, 4), 4: (0, 4), 1: (1, 5), 5: (1, 5)}
    assert one_cpu_per_core({0, 4, 5, 6}, siblings) == (0, 5, 6)
