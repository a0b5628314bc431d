"""The demo for several seeds, each from nothing: budgets met, outputs verified, top-1 against the baseline's; also
where the search's expected latency ended, and what the search cost in trainings of its winner.

python -m benchmarks.demo_seeds [--seeds 0,1,2] [--budget 0.6x]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.results import save_results
from pipeline.api import run
from pipeline.config import RunConfig
from pipeline.files import read_json
from targets.registry import get_target


def judge(summary: dict[str, Any]) -> dict[str, bool]:
    """What the demo promises, one by one."""
    return {
        "within budget": summary["measured_ms"] <= summary["budget_ms"],
        "max_abs_error <= 1e-4": summary["verify"]["max_abs_error"] <= 1e-4,
        "top1_agreement == 1": summary["verify"]["top1_agreement"] == 1.0,
        "top1 >= baseline - 1 point": summary["top1"] >= summary["baseline"]["top1"] - 0.01,
    }


def main() -> None:
    """Run, print a line for each seed, save; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--budget", default="0.6x")
    options = parser.parse_args()
    rows = []
    for seed in map(int, options.seeds.split(",")):
        with TemporaryDirectory() as folder:
            start = perf_counter()
            # A database of its own, so that every seed pays for its calibration.
            summary = run(
                RunConfig(target="x86", data="digits", budget=options.budget, seed=seed),
                out=Path(folder) / "run",
                database=Path(folder) / "measurements.sqlite",
            )
            seconds = perf_counter() - start
            searched, trained = (read_json(Path(folder) / "run" / s / "result.json") or {} for s in ("search", "train"))
        promises = judge(summary)
        del summary["run"]
        cost = searched["seconds"] / trained["winner"]["seconds"]
        arrived = searched["history"][-1]["expected_over_budget"]
        facts = {"search_over_training": cost, "expected_over_budget": arrived}
        rows.append({"seed": seed, "seconds": seconds, "promises": promises, **facts, **summary})
        print(
            f"seed {seed}: {seconds:5.0f} s, budget {summary['budget_ms']:.4f} ms, measured "
            f"{summary['measured_ms']:.4f} ms, top-1 {summary['top1']:.4f} against {summary['baseline']['top1']:.4f}, "
            f"expected at the end of the search {arrived:.3f} of the budget, search {cost:.2f} trainings; "
            + (
                "every promise kept"
                if all(promises.values())
                else f"BROKEN: {[k for k, v in promises.items() if not v]}"
            )
        )
    print(f"written to {save_results('demo_seeds', get_target('x86'), {'runs': rows})}")
    sys.exit(0 if all(all(row["promises"].values()) for row in rows) else 1)


if __name__ == "__main__":
    main()
