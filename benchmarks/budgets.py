"""Are measured budgets met? `run` for many seeds and three budgets, with one calibration for all of them.

python -m benchmarks.budgets [--seeds 10] [--budgets 0.4x,0.6x,0.9x] [--search-epochs 8] [--train-epochs 2] [--out DIR]

A run ends only if it measured its budget met, so what counts here is what its `bench` stage measures once more: winner
and baseline in turns. What the search's expected latency came to is printed too. Latency does not depend on how long
networks are trained, so they are not trained for long. With --out, runs that are done are not done again.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.results import save_results
from pipeline.api import run
from pipeline.config import RunConfig
from pipeline.files import read_json, write_json
from supernet.derive import BudgetError
from targets.registry import get_target

FAILED = "failed.json"
# The search's expected latency is to end this near to the budget.
ARRIVED = 0.03
FIGURES = ("budget_ms", "predicted_ms", "measured_ms", "rederivations", "architecture")


def judged(config: RunConfig, folder: Path, database: Path) -> dict[str, Any]:
    """One run: what it says of itself, and what its `bench` stage found of its winner beside the baseline."""
    # A run that failed stays so, however often this is called.
    if (folder / FAILED).exists() and (failed := read_json(folder / FAILED)):
        return failed
    try:
        found = run(config, out=folder, resume=folder.exists(), database=database)
    except BudgetError as error:
        write_json(folder / FAILED, {"met": False, "rederivations": None, "error": str(error)})
        return judged(config, folder, database)
    calibration, baseline, search, compiled, bench = (
        read_json(folder / stage / "result.json") or {}
        for stage in ("calibrate", "baseline", "search", "compile", "bench")
    )
    (speedup,) = (times for name, times in bench["speedups"].items() if name.startswith("netlathe: "))
    benched = 1.0 / speedup
    return {
        "met": benched <= config.parsed_budget.value,
        "times_baseline": found["measured_ms"] / found["budget_ms"] * config.parsed_budget.value,
        "times_baseline_in_bench": benched,
        "expected_over_budget": search["history"][-1]["expected_over_budget"],
        "measurements": compiled["measurements"],
        "disturbed": calibration["disturbed"],
        "searched_for_ms": 1e3 * baseline["budget_s"],
        **{figure: found[figure] for figure in FIGURES},
    }


def main() -> None:
    """Run, print a line for each, save; exit with 1 if a budget was not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budgets", default="0.4x,0.6x,0.9x")
    parser.add_argument("--search-epochs", type=int, default=8)
    parser.add_argument("--train-epochs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = options.out or Path(stack.enter_context(TemporaryDirectory()))
        for budget in options.budgets.split(","):
            for seed in range(options.seeds):
                config = RunConfig(
                    budget=budget, seed=seed, search_epochs=options.search_epochs, train_epochs=options.train_epochs
                )
                row = judged(config, folder / config.name, folder / "measurements.sqlite")
                rows.append({"budget": budget, "seed": seed, **row})
                print(" ".join(f"{figure}={value}" for figure, value in rows[-1].items()), flush=True)
    for budget in options.budgets.split(","):
        chosen = [row for row in rows if row["budget"] == budget]
        again = sum(row["rederivations"] or 0 for row in chosen)
        twice = sum(row.get("measurements", 1) - 1 for row in chosen)
        arrived = [row for row in chosen if abs(row.get("expected_over_budget", 0.0) - 1.0) <= ARRIVED]
        print(
            f"{budget}: met in {sum(row['met'] for row in chosen)} of {len(chosen)} runs, {again} re-derivations, "
            f"{twice} measurements of a trained network more than one; the search's expected latency ended within "
            f"{ARRIVED:.0%} of the budget in {len(arrived)}"
        )
    print(f"written to {save_results('budgets', get_target('x86'), {'runs': rows})}")
    sys.exit(0 if all(row["met"] for row in rows) else 1)


if __name__ == "__main__":
    main()
