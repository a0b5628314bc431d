"""Code for Apple's machines, which nothing here runs: its files, and its core's code on another system under qemu."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from macholib import mach_o
from macholib.MachO import MachO

from targets.emulator import launcher, run_program
from targets.registry import get_target
from targets.toolchain import MACOS, ZIG
from tvm_latency.build import Compiled
from tvm_latency.standalone.write import LIBRARY, NETBENCH

pytestmark = [
    pytest.mark.compiles,
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
]
APPLE = get_target("apple-m1")
# The same core, by another system's conventions.
ON_LINUX = replace(
    APPLE, mtriple="aarch64-linux-gnu", toolchain="aarch64", emulator=("qemu-aarch64", "-cpu", "max"), threads=2
)
USER = """#include "net.h"
int main(void) {
  static float image[NETLATHE_INPUT_SIZE], logits[NETLATHE_OUTPUT_SIZE];
  netlathe *net;
  return netlathe_create(&net, 1, 0) || netlathe_run(net, image, logits);
}
"""
CS_MAGIC_EMBEDDED_SIGNATURE, CS_MAGIC_CODE_DIRECTORY = 0xFADE0CC0, 0xFADE0C02


class Examined:
    """A Mach-O file of one architecture."""

    def __init__(self, file: Path) -> None:
        self.content, self.macho = file.read_bytes(), MachO(str(file))
        (self.header,) = self.macho.headers
        self.commands = {load.cmd: command for load, command, _ in self.header.commands}
        self.links = self.commands[mach_o.LC_DYLD_INFO_ONLY]

    def needed(self) -> set[str]:
        """The names that the system looks for: symbols behind the opcode that sets one."""
        opcodes = [(self.links.bind_off, self.links.bind_size), (self.links.lazy_bind_off, self.links.lazy_bind_size)]
        found = (re.findall(rb"[\x40-\x4f](_\w+|dyld_\w+)\0", self.content[at : at + size]) for at, size in opcodes)
        return {name.decode() for names in found for name in names}

    def check(self) -> None:
        """For macOS 12 on arm64, signed, and of no library but the system's."""
        assert self.header.header.cputype == 0x0100000C
        build = self.commands[mach_o.LC_BUILD_VERSION]
        assert (build.platform, build.minos >> 16) == (1, 12)
        assert {name for _, _, name in self.header.walkRelocatables()} <= {"/usr/lib/libSystem.B.dylib"}
        self.check_signature()

    def check_slots(self) -> None:
        """What kernels call through is set here, to strong names: TVM's own are weak, and empty."""
        assert self.links.weak_bind_size == 0
        assert "_pthread_cond_wait" in self.needed()
        assert not any("tvm" in name.lower() for name in self.needed())

    def check_signature(self) -> None:
        """Every page has the hash that the code directory says."""
        place = self.commands[mach_o.LC_CODE_SIGNATURE]
        signature = self.content[place.dataoff :]
        magic, _, count = struct.unpack(">3I", signature[:12])
        assert magic == CS_MAGIC_EMBEDDED_SIGNATURE
        blobs = [struct.unpack(">2I", signature[12 + 8 * i : 20 + 8 * i])[1] for i in range(count)]
        (directory,) = (
            signature[at:] for at in blobs if struct.unpack(">I", signature[at : at + 4]) == (CS_MAGIC_CODE_DIRECTORY,)
        )
        hashes, _, _, slots, limit = struct.unpack(">5I", directory[16:36])
        size, page = directory[36], 1 << directory[39]
        assert (size, limit, slots) == (32, place.dataoff, -(-limit // page))
        for slot in range(slots):
            found = directory[hashes + size * slot : hashes + size * (slot + 1)]
            covered = self.content[page * slot : min(page * (slot + 1), limit)]
            assert found == hashlib.sha256(covered).digest()


@pytest.fixture(scope="module")
def compiled(write: Callable[..., Compiled], tmp_path_factory: pytest.TempPathFactory) -> tuple[Compiled, Path]:
    folder = tmp_path_factory.mktemp("apple")
    return write(APPLE, folder), folder


def test_netbench_has_all_inside(compiled: tuple[Compiled, Path]) -> None:
    network, folder = compiled
    found = Examined(folder / NETBENCH)
    found.check()
    assert found.header.filetype == "execute"
    assert network.plan is not None
    assert network.plan.weights.tobytes() in found.content
    found.check_slots()


def test_a_program_links_with_the_library(compiled: tuple[Compiled, Path], tmp_path: Path) -> None:
    _, folder = compiled
    (tmp_path / "user.c").write_text(USER)
    words = [*ZIG, "-target", MACOS, f"-I{folder}", tmp_path / "user.c", folder / LIBRARY, "-o", tmp_path / "user"]
    subprocess.run(words, check=True)
    found = Examined(tmp_path / "user")
    found.check()
    found.check_slots()


def test_the_library_for_tvm_needs_tvm_and_c(compiled: tuple[Compiled, Path], tmp_path: Path) -> None:
    network, _ = compiled
    found = Examined(network.export(tmp_path / "model.so"))
    found.check()
    assert found.header.filetype == "dylib"
    assert found.needed() <= {"_TVMFFIErrorSetRaisedFromCStrParts", "_memset", "_memcpy", "dyld_stub_binder"}


@pytest.mark.skipif(launcher(ON_LINUX) is None, reason="qemu-aarch64 is not installed")
def test_code_for_its_core_computes_the_network(write: Callable[..., Compiled], tmp_path: Path) -> None:
    """Threads wait by futexes here."""
    write(ON_LINUX, tmp_path)
    options = ("--num_runs=0", "--warmup_runs=0", "--num_threads=2", "--json")
    found = json.loads(run_program(tmp_path / NETBENCH, *options, before=launcher(ON_LINUX) or ()))
    assert found["threads"] == 2
