"""What `search_evidence` found: the speed-up at equal accuracy, ranks among random networks, and what it cost.

python -m benchmarks.evidence_report [docs/results/search_evidence_small.json]    prints it and draws it again
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import plotly.graph_objects as go

from benchmarks.results import FOLDER
from pipeline.figures import MUTED, OTHER, OURS
from pipeline.files import read_json

SPEEDUP, COST, EXPECTED, PERCENTILE, MEDIAN = 1.8, 1.0, 0.03, 80.0, 50.0
# Peaks of a search over that of the largest network; and at the most candidates over that at the fewest.
MEMORY, FLAT = {"recompute": 1.2, "two_path": 1.6}, 1.1
COLOURS = {"mobilenet": OTHER, "random": MUTED, "searched": OURS}

Row = dict[str, Any]


def points(rows: Sequence[Row], role: str) -> list[Row]:
    """Networks of a role, the mean over seeds by name: accuracy, its spread, milliseconds.

    The spread is the standard deviation over seeds; of a single one, that of a share of so many test images.
    """
    found = []
    for name in dict.fromkeys(row["name"] for row in rows if row["role"] == role):
        same = [row for row in rows if row["name"] == name]
        tops, images = [row["top1"] for row in same], same[0]["test_images"]
        found.append(
            {
                "name": name,
                "top1": mean(tops),
                "spread": stdev(tops) if len(tops) > 1 else (tops[0] * (1 - tops[0]) / images) ** 0.5,
                "ms": 1e3 * mean(row["measured_s"] for row in same),
            }
        )
    return found


def speedups(rows: Sequence[Row]) -> list[Row]:
    """For each searched network how much longer a MobileNetV2 of the same accuracy takes, by `time_at`.

    Where no width is as accurate, the widest one stands in and the factor is a lower bound (`at_least`); where all are
    more accurate, there is none.
    """
    curve = points(rows, "mobilenet")
    tops = [point["top1"] for point in curve]
    found = []
    for point in points(rows, "searched"):
        factor = time_at(curve, point["top1"]) / point["ms"] if point["top1"] >= min(tops) else None
        found.append({**point, "factor": factor, "at_least": point["top1"] > max(tops)})
    return found


def time_at(curve: Sequence[Row], top1: float) -> float:
    """Milliseconds of networks at an accuracy, between those of points: their logarithm over top-1.

    A point that is slower than a more accurate one counts as fast as that; beyond the last ones these stand in.
    """
    ordered = sorted(curve, key=lambda point: float(point["top1"]))
    logs = np.log(np.minimum.accumulate([point["ms"] for point in reversed(ordered)])[::-1])
    return float(np.exp(np.interp(top1, [point["top1"] for point in ordered], logs)))


def percentiles(rows: Sequence[Row]) -> list[Row]:
    """For each searched network and seed the share of its budget's random networks that it beats (ties count half)."""
    found = []
    for row in (row for row in rows if row["role"] == "searched"):
        rivals = [r["top1"] for r in rows if r["role"] == "random" and r["budget"] == row["budget"]]
        beaten = sum((row["top1"] > top1) + 0.5 * (row["top1"] == top1) for top1 in rivals)
        found.append({"name": row["name"], "seed": row["seed"], "percentile": 100 * beaten / len(rivals)})
    return found


def cost_factors(rows: Sequence[Row]) -> list[Row]:
    """What each search took over what training its winner once did, in seconds of one core; of one machine."""
    return [
        {"name": row["name"], "seed": row["seed"], "factor": row["core_seconds"] / row["train_core_seconds"]}
        for row in rows
        if row["role"] == "searched" and row["searched_on"] == row["trained_on"]
    ]


def verdicts(found: Mapping[str, Any]) -> dict[str, bool]:
    """Which promises hold."""
    rows, memory = found["networks"], found["memory"]
    costs = [row["factor"] for row in cost_factors(rows)]
    factors = [row["factor"] for row in speedups(rows)]
    ranks = [row["percentile"] for row in percentiles(rows)]
    searched = [row for row in rows if row["role"] == "searched"]
    budgets = {row["name"]: row["measured_s"] <= row["budget"] * row["baseline_s"] for row in searched}
    return {
        f"at equal accuracy {SPEEDUP} times as fast as MobileNetV2": all((f or 0.0) >= SPEEDUP for f in factors),
        "each beats the median random network of its budget": min(ranks) > MEDIAN,
        f"on average the {PERCENTILE:g}th percentile": mean(ranks) >= PERCENTILE,
        f"a search costs at most {COST:g} trainings": bool(costs) and max(costs) <= COST,
        **{
            f"memory of {name} at most {most} times the largest network's": all(
                row[f"{name}_mb"] <= most * row["largest_mb"] for row in memory
            )
            for name, most in MEMORY.items()
        },
        "memory flat in the number of candidates": all(
            memory[-1][f"{name}_mb"] <= FLAT * memory[0][f"{name}_mb"] for name in MEMORY
        ),
        f"expected latency within {EXPECTED:.0%} of the budget": all(
            abs(row["expected_over_budget"] - 1.0) <= EXPECTED for row in searched
        ),
        "measured budgets met": all(budgets.values()),
    }


def print_report(found: Mapping[str, Any]) -> None:
    """Everything as text, and the plot beside the results."""
    rows = found["networks"]
    print(found["space"])
    for role in COLOURS:
        for point in points(rows, role):
            print(f"  {point['name']:22} {point['ms']:.4f} ms  top-1 {point['top1']:.2%} +- {point['spread']:.2%}")
    for row in speedups(rows):
        factor = "below the narrowest MobileNetV2" if row["factor"] is None else f"{row['factor']:.2f}x"
        print(f"{row['name']}: {'at least ' if row['at_least'] else ''}{factor} at equal accuracy")
    for rank in percentiles(rows):
        beaten = f"beats {rank['percentile']:.0f} % of the random networks of its budget"
        print(f"{rank['name']}, seed {rank['seed']}: {beaten}")
    for cost in cost_factors(rows):
        print(f"{cost['name']}, seed {cost['seed']}: the search cost {cost['factor']:.2f} trainings")
    for row in found["memory"]:
        print("  ".join(f"{name} {value:.1f}" for name, value in row.items()))
    for promise, kept in found["verdicts"].items():
        print(f"{'kept  ' if kept else 'BROKEN'} {promise}")
    plot(rows).write_html(FOLDER / f"search_evidence_{found['scale']}.html", include_plotlyjs="cdn")


def plot(rows: Sequence[Row]) -> go.Figure:
    """Top-1 over measured milliseconds, with its spread."""
    figure = go.Figure()
    for role, colour in COLOURS.items():
        shown = sorted(points(rows, role), key=lambda point: point["ms"])
        figure.add_scatter(
            x=[point["ms"] for point in shown],
            y=[100 * point["top1"] for point in shown],
            error_y={"array": [100 * point["spread"] for point in shown]},
            mode="lines+markers" if role != "random" else "markers",
            marker={"size": 10, "color": colour},
            text=[point["name"] for point in shown],
            name=role,
        )
    figure.update_layout(xaxis_title="latency, measured (ms)", yaxis_title="top-1 on test images (%)")
    return figure


def main() -> None:
    """Print the report of results that are there."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER / "search_evidence_small.json"
    print_report(read_json(file) or {})


if __name__ == "__main__":
    main()
