"""Instruction sets to compare for, and how each runtime is held to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.runtimes import RuntimeUnavailableError


@dataclass(frozen=True, kw_only=True)
class Isa:
    """An instruction set.

    targets: ours; the first is what is compared, the others stand beside it.
    peers: the runtimes that it is compared with by default.
    restrictions: the environment variables that hold a peer to the instruction set.
    left_out: why the other peers cannot be held to it.
    """

    name: str
    targets: tuple[str, ...]
    peers: tuple[str, ...]
    restrictions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)

    @property
    def suffix(self) -> str:
        """Of the files with its results."""
        return "" if self is FULL else f"_{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """All restrictions together."""
        return {name: value for variables in self.restrictions.values() for name, value in variables.items()}

    def permitted(self, peers: Sequence[str]) -> Sequence[str]:
        """The same peers.

        Raises:
            RuntimeUnavailableError: one of them cannot be held to the instruction set.
        """
        for peer in peers:
            if peer in self.left_out:
                raise RuntimeUnavailableError(
                    f"{peer} cannot be compared for {self.name}: {self.left_out[peer]}. Leave it out of --against."
                )
        return peers


_CHECKS_THE_CPU = "it chooses its kernels by what the CPU can do, and nothing that a user can set changes that"

FULL = Isa(
    name="all that the machine has",
    targets=("x86",),
    peers=("onnxruntime", "openvino", "ncnn", "litert", "torch.compile"),
)
AVX2 = Isa(
    name="avx2",
    targets=("x86-64-v3", "x86"),
    peers=("openvino", "torch.compile"),
    restrictions={
        # The first for oneDNN inside, the second for kernels of OpenVINO's own. Its matrix product looks at the CPU.
        "openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OV_CPU_MAX_ISA": "AVX2"},
        # oneDNN's kernels, ATen's and Inductor's vectors, what g++ may use, and MKL on Intel's CPUs.
        "torch.compile": {
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "ATEN_CPU_CAPABILITY": "avx2",
            "TORCHINDUCTOR_CPP_MARCH": "x86-64-v3",
            "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        },
    },
    left_out={
        "onnxruntime": _CHECKS_THE_CPU,
        "ncnn": _CHECKS_THE_CPU,
        "litert": _CHECKS_THE_CPU,
        "torch": "networks come as ONNX files here",
    },
)
