"""Are measured budgets met? `run` for many seeds and three budgets, with one calibration for all of them.

python -m benchmarks.budgets [--seeds 10] [--budgets 0.4x,0.6x,0.9x] [--search-epochs 8] [--train-epochs 2]

Latency does not depend on how long networks are trained, so they are not trained for long here.
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
from supernet.derive import BudgetError
from targets.target import get_target

FIGURES = ("budget_ms", "predicted_ms", "measured_ms", "rederivations", "architecture")


def main() -> None:
    """Run, print a line for each, save; exit with 1 if a budget was not met."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--budgets", default="0.4x,0.6x,0.9x")
    parser.add_argument("--search-epochs", type=int, default=8)
    parser.add_argument("--train-epochs", type=int, default=2)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        for budget in options.budgets.split(","):
            for seed in range(options.seeds):
                config = RunConfig(
                    budget=budget, seed=seed, search_epochs=options.search_epochs, train_epochs=options.train_epochs
                )
                start = perf_counter()
                try:
                    found = run(config, out=folder / config.name, database=folder / "measurements.sqlite")
                except BudgetError as error:
                    row: dict[str, Any] = {"met": False, "error": str(error)}
                else:
                    figures = {figure: found[figure] for figure in FIGURES}
                    row = {"met": found["measured_ms"] <= found["budget_ms"], **figures}
                rows.append({"budget": budget, "seed": seed, **row, "seconds": perf_counter() - start})
                print(" ".join(f"{figure}={value}" for figure, value in rows[-1].items()), flush=True)
    for budget in options.budgets.split(","):
        chosen = [row for row in rows if row["budget"] == budget]
        again = sum(row.get("rederivations", 0) for row in chosen)
        print(f"{budget}: met in {sum(row['met'] for row in chosen)} of {len(chosen)} runs, {again} re-derivations")
    print(f"written to {save_results('budgets', get_target('x86'), {'runs': rows})}")
    sys.exit(0 if all(row["met"] for row in rows) else 1)


if __name__ == "__main__":
    main()
