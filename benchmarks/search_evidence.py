"""Does the search keep its promises? Networks it finds beside MobileNetV2 at several widths and beside random networks.

python -m benchmarks.search_evidence --data DATA [--scale tiny|small|gpu] [--seeds 1] [--out DIR]

DATA is CIFAR-10 or whatever else has images of 32 pixels. First comes what one machine has to do, in this order: a
calibration, the searches, and all networks compiled and measured in turns. Then everything is trained with one recipe,
which any machine can do. What is done is kept as JSON in --out (docs/results/search_evidence_SCALE), so a run that was
stopped goes on, with that folder elsewhere too; a row stands for each trained network.
`small` takes hours on two cores; `gpu` trains the full-sized space on the GPU that is there and measures on the CPU.
`small` searches and trains two networks at a time, on half of the cores each; only measurements run alone. What a
search costs is therefore counted in seconds of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.evidence import Evidence
from benchmarks.evidence_memory import memory_by_candidates
from benchmarks.evidence_report import Row, print_report, verdicts
from benchmarks.evidence_scales import SCALES
from benchmarks.results import FOLDER, save_results
from pipeline.console import ProgressView
from pipeline.files import read_json
from supernet.architecture import Architecture
from supernet.costs import Constraint
from targets.registry import get_target

_Same = tuple[str, str, int, Path]
"""What makes an `Evidence` in another process the same one."""


def measured_and_trained(evidence: Evidence) -> list[Row]:
    """Every network, measured in turns by what has the machine for itself, and then trained."""
    limits, mobilenets = evidence.limits(), evidence.mobilenets()
    again = (evidence.name, evidence.source, evidence.seed, evidence.root)
    with ProcessPoolExecutor(
        evidence.scale.workers, get_context("spawn"), torch.set_num_threads, (evidence.threads,)
    ) as pool:
        try:
            # The first search leaves the warm-up to the others; beside it the widest MobileNetV2 is trained.
            first, *others = (partial(_search, again, share, within) for share, within in limits.items())
            beside: list[Future[Any]] = [pool.submit(first), pool.submit(_train, again, mobilenets[0])]
            beside[0].result()
            for future in [*beside, *[pool.submit(other) for other in others]]:
                future.result()
            # Those first whose training stands beside the cost of their search.
            rows = [*evidence.winners(limits), *mobilenets, *evidence.rivals(limits)]
            nets = {row["name"]: Architecture.from_text(row["architecture"]) for row in rows}
            nets["baseline"] = evidence.scale.space.baseline
            times = evidence.kept("measured", lambda: evidence.measured(nets))
            rows = list(pool.map(partial(_train, again), rows))
        except BaseException:
            # What has not begun would take hours before anybody heard of it.
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    baseline = read_json(evidence.folder / "baseline.json") or {}
    same = {"seed": evidence.seed, "baseline_s": times["baseline"], "measured_on": baseline["machine"]}
    return [{**row, "measured_s": times[row["name"]], **same} for row in rows]


def _search(evidence: _Same, share: float, limits: Sequence[Constraint]) -> None:
    """In a process of its own: small networks use one core each better than many together."""
    Evidence(*evidence).searched(share, limits)


def _train(evidence: _Same, row: Row) -> Row:
    return Evidence(*evidence).trained(row)


def main() -> None:
    """Train, measure, print, save; exit with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scale, rows = SCALES[options.scale], []
    root = options.out or FOLDER / f"search_evidence_{options.scale}"
    with ProgressView() as view:
        for seed in range(options.seeds):
            rows += measured_and_trained(Evidence(options.scale, options.data, seed, root, view))
    found = {
        "scale": options.scale,
        "space": scale.space.describe(),
        "networks": rows,
        "memory": memory_by_candidates(scale.space, scale.recipe.search.batch_size),
    }
    found["verdicts"] = verdicts(found)
    print_report(found)
    print(f"written to {save_results('search_evidence', get_target('x86'), found, f'_{options.scale}')}")
    raise SystemExit(0 if all(found["verdicts"].values()) else 1)


if __name__ == "__main__":
    main()
