"""The matrix of networks searched for one machine and measured on another; and what cannot be measured here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import specialisation
from benchmarks.specialisation import kernel_shares, matrix, verdicts
from targets.bundle import BundleAwayError

ARM, GPU = "arm64-cortex-a76", "cuda-sm90/8@bundle:stick"
SMALL_KERNELS, LARGE_KERNELS = "r32 c8s2 8k3e1 8k3e3 8k3e3 h16 n10", "r32 c8s2 8k3e1 8k7e3 h16 n10"


def network(target: str, budget: float, top1: float, text: str = SMALL_KERNELS) -> dict[str, Any]:
    return {"target": target, "budget": budget, "top1": top1, "architecture": text}


ROWS = [network("x86", 0.4, 0.6), network("x86", 0.8, 0.8), network(ARM, 0.4, 0.7, LARGE_KERNELS)]
TIMES = {
    "x86": {"x86 0.4": 1e-3, "x86 0.8": 4e-3, f"{ARM} 0.4": 3e-3},
    ARM: {"x86 0.4": 5e-3, "x86 0.8": 5e-3, f"{ARM} 0.4": 6e-3},
}


def test_times_are_those_at_the_accuracy_that_all_reach() -> None:
    level, found = matrix(ROWS, TIMES)
    assert level == 0.7
    assert found["x86"] == {"x86": pytest.approx(2.0), ARM: pytest.approx(5.0)}
    assert found[ARM] == {"x86": pytest.approx(3.0), ARM: pytest.approx(6.0)}


def test_what_is_promised_is_only_of_measured_times() -> None:
    level, found = matrix(ROWS, TIMES)
    assert verdicts(found, ROWS, level) == {"x86": True}
    found["x86"]["x86"] = 3.5
    assert verdicts(found, ROWS, level) == {"x86": False}
    # Nobody knows what a network for ARM that is no better than that would take; or what one is to be compared with.
    assert verdicts(found, ROWS, 0.65) == {}
    assert verdicts({"x86": found["x86"]}, ROWS, level) == {}


def test_kernel_sizes_are_counted_by_blocks() -> None:
    assert kernel_shares(ROWS, "x86") == {3: 1.0, 5: 0.0, 7: 0.0}
    assert kernel_shares(ROWS, ARM) == {3: 0.5, 5: 0.0, 7: 0.5}


def test_what_has_to_be_carried_ends_it_after_everything_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three machines one is away: it is asked for first, the others' networks are made, nothing is measured."""
    done: list[str] = []

    class Evidence:
        def __init__(self, *_: object, target: str = "") -> None:
            self.target = target

        def limits(self) -> None:
            done.append(f"calibrate {self.target}")
            if "bundle" in self.target:
                raise BundleAwayError("Carry the folder.")

    class Pool:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self) -> Pool:
            return self

        def __exit__(self, *_: object) -> None: ...
        def map(self, _: object, names: list[str]) -> list[list[dict[str, Any]]]:
            done.extend(f"search {name}" for name in names)
            return []

    monkeypatch.setattr(specialisation, "Evidence", Evidence)
    monkeypatch.setattr(specialisation, "ProcessPoolExecutor", Pool)
    words = ["specialisation", "--data", "digits", "--out", str(tmp_path), "--targets", f"{GPU},x86,{ARM}"]
    monkeypatch.setattr("sys.argv", words)
    with pytest.raises(SystemExit, match=r"cuda-sm90/8@bundle:stick: Carry the folder\."):
        specialisation.main()
    assert done == [f"calibrate {GPU}", "calibrate x86", f"calibrate {ARM}", "search x86", f"search {ARM}"]
