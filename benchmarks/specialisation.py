"""Does every machine want a network of its own? One is searched for each of several, and runs on all of them.

python -m benchmarks.specialisation --data DATA [--targets x86,arm64-cortex-a76,cuda-sm90/8@bundle:STICK]
    [--scale tiny|small|gpu] [--out DIR]

For each target the same space is calibrated there, searched within three budgets, and what is found is trained, all
with one recipe. Every network is then measured on every target. The matrix has what those searched for one target (a
row) take on another (a column) at one accuracy, between their budgets by interpolation: milliseconds, or emulated
instructions where the machine is emulated. What is done is kept in --out. With a bundle the command does all it can
without, says what has to be carried where, and is given again once the results are back.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence import Evidence
from benchmarks.evidence_report import Row, time_at
from benchmarks.evidence_scales import SCALES
from benchmarks.results import save_results
from pipeline.console import ProgressView
from pipeline.finding import USED
from supernet.architecture import Architecture
from supernet.derive import derive
from targets.bundle import BundleAwayError
from targets.registry import get_target
from targets.target import EMULATED

TARGETS = "x86,arm64-cortex-a76,cuda-sm90/8@bundle:stick"
KERNELS = (3, 5, 7)

Matrix = dict[str, dict[str, float]]
"""Searched for -> measured on -> thousandths of a second on the latter's clock."""


def searched(options: argparse.Namespace, name: str) -> list[Row]:
    """The trained networks of a target, one for each budget; what is kept is not done again."""
    evidence = Evidence(options.scale, options.data, options.seed, options.out, target=name)
    rows = []
    for share, within in evidence.limits().items():
        found = evidence.searched(share, within)
        space = evidence.scale.space
        net = space.architecture(derive(space, found["probabilities"], within, used=USED))
        row = {"name": f"specialised-{share}", "target": name, "budget": share, "architecture": net.text}
        rows.append(evidence.trained(row))
    return rows


def calibrated(options: argparse.Namespace, names: Sequence[str], view: ProgressView) -> tuple[list[str], list[str]]:
    """The targets that are calibrated, and for each other one what has to be done first."""
    ready, away = [], []
    for name in names:
        try:
            Evidence(options.scale, options.data, options.seed, options.out, view, target=name).limits()
            ready.append(name)
        except BundleAwayError as error:
            away.append(f"{name}: {error}")
    return ready, away


def measured(options: argparse.Namespace, rows: Sequence[Row], name: str) -> dict[str, float]:
    """Seconds of every network on a target, in turns; kept.

    Raises:
        BundleAwayError: they have to be measured elsewhere first.
    """
    evidence = Evidence(options.scale, options.data, options.seed, options.out, target=name)
    nets = {key(row): Architecture.from_text(row["architecture"]) for row in rows}
    digest = blake2b(repr(sorted((key(row), row["architecture"]) for row in rows)).encode(), digest_size=4).hexdigest()
    return evidence.kept(f"matrix-{digest}", partial(evidence.measured, nets))


def key(row: Row) -> str:
    """One name for a network among those of all targets."""
    return f"{row['target']} {row['budget']}"


def matrix(rows: Sequence[Row], times: Mapping[str, Mapping[str, float]]) -> tuple[float, Matrix]:
    """The accuracy that the networks of every target reach, and what those of each take on each at that."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    of = {name: [row for row in rows if row["target"] == name] for name in names}
    level = min(max(row["top1"] for row in found) for found in of.values())
    return level, {
        name: {
            on: time_at([{"top1": row["top1"], "ms": 1e3 * seconds[key(row)]} for row in found], level)
            for on, seconds in times.items()
        }
        for name, found in of.items()
    }


def kernel_shares(rows: Sequence[Row], name: str) -> dict[int, float]:
    """Of the blocks of a target's networks, how many have kernels of each size."""
    nets = [Architecture.from_text(row["architecture"]) for row in rows if row["target"] == name]
    sizes = [op.kernel for net in nets for op in net.op_specs() if op.kind == "mbconv"]
    return {kernel: sizes.count(kernel) / len(sizes) for kernel in KERNELS}


def verdicts(found: Matrix, rows: Sequence[Row], level: float) -> dict[str, bool]:
    """Whether the networks of each target whose time was measured are the fastest there.

    None of a single target; nor where all networks of one are more accurate than asked, whose time stands in for that
    of a smaller one.
    """
    least = {name: min(row["top1"] for row in rows if row["target"] == name) for name in found}
    if len(found) < 2 or max(least.values()) > level:
        return {}
    timed = [name for name in found if get_target(name).runner != EMULATED]
    return {name: found[name][name] == min(row[name] for row in found.values()) for name in timed}


def print_matrix(rows: Sequence[Row], level: float, found: Matrix) -> None:
    """As a table, with the kernel sizes that each target chose."""
    print(f"\nat top-1 {level:.2%}; rows: searched for, columns: measured on")
    for name, row in found.items():
        times = "  ".join(f"{on}: {get_target(on).unit.text(1e-3 * value)}" for on, value in row.items())
        shares = ", ".join(f"{kernel}x{kernel} {share:.0%}" for kernel, share in kernel_shares(rows, name).items())
        print(f"{name:32} {times}   kernels {shares}")


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Everything; or, where something is to be carried, what can be done without it, and then why it ends.

    Raises:
        SystemExit: there is something to carry.
    """
    names = options.targets.split(",")
    with ProgressView() as view:
        ready, away = calibrated(options, names, view)
    scale = SCALES[options.scale]
    with ProcessPoolExecutor(scale.workers, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        rows = [row for found in pool.map(partial(searched, options), ready) for row in found]
    times: dict[str, dict[str, float]] = {}
    for name in () if away else names:
        try:
            times[name] = measured(options, rows, name)
        except BundleAwayError as error:
            away.append(f"{name}: {error}")
    if away:
        sys.exit("\n".join(away))
    level, found = matrix(rows, times)
    print_matrix(rows, level, found)
    shares = {name: kernel_shares(rows, name) for name in names}
    return {"level": level, "matrix": found, "kernels": shares, "networks": rows, "measured_s": times}


def main() -> None:
    """Search, train, measure, print, save; exit with 1 where another target's network is faster."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--targets", default=TARGETS)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("specialisation"))
    options = parser.parse_args()
    found = run(options)
    kept = verdicts(found["matrix"], found["networks"], found["level"])
    if not kept:
        print("no verdict: there is one target, or one has no network that is as little accurate as the others' best")
    for name, fastest in kept.items():
        print(f"{'kept  ' if fastest else 'BROKEN'} on {name} the networks searched for it are the fastest")
    where = save_results("specialisation", get_target("x86"), {**found, "verdicts": kept}, f"_{options.scale}")
    print(f"written to {where}")
    raise SystemExit(0 if all(kept.values()) else 1)


if __name__ == "__main__":
    main()
