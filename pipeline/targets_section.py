"""The report on several targets: what the network takes on each, and how it compares there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.config import ALSO
from targets.target import unit_of

HEAD = ("target", "budget", "predicted", "derived", "baseline", "gain", "over ONNX Runtime", "largest difference")


def text(results: Mapping[str, dict[str, Any]]) -> str:
    """What the section says."""
    setup = results["setup"]
    kept = f"the mean of the budgets, weighted by {setup['shares']}, is" if setup["shares"] else "every budget is"
    return (
        "One network and one training, compiled, measured or emulated, and verified for each target; "
        f"{kept} kept. The rest of this page is about {setup['target']['name']}."
    )


def table(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A row for each target, the first one first."""
    return {"head": list(HEAD), "rows": [[name, *_row(part)] for name, part in _parts(results).items()]}


def operators(results: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A row for each operator of the derived network: what it adds on every target, and which share of it that is."""
    parts = _parts(results)
    columns = [_operators(part) for part in parts.values()]
    names = [operator["key"] for operator in results["derive"]["operators"]]
    return {"head": ["operator", *parts], "rows": [[name, *row] for name, *row in zip(names, *columns, strict=True)]}


def _parts(results: Mapping[str, dict[str, Any]]) -> dict[str, Mapping[str, dict[str, Any]]]:
    """Each target's own results, by its name."""
    also = results["compile"][ALSO]
    parts: dict[str, Mapping[str, dict[str, Any]]] = {results["setup"]["target"]["name"]: results}
    return parts | {
        name: {stage: found.get(ALSO, {}).get(name, {}) for stage, found in results.items()} for name in also
    }


def _operators(results: Mapping[str, dict[str, Any]]) -> list[str]:
    unit = unit_of(results["setup"]["target"]["runner"])
    seconds = [operator["seconds"] for operator in results["derive"]["operators"]]
    return [f"{unit.text(one, '.4f')} ({one / sum(seconds):.0%})" for one in seconds]


def _row(results: Mapping[str, dict[str, Any]]) -> list[str]:
    shipped, predicted_s = results["compile"], results["derive"]["predicted_s"]
    unit = unit_of(results["setup"]["target"]["runner"])
    ours_s, baseline_s = (shipped[role]["measured_s"] for role in ("winner", "baseline"))
    against = {name.partition(":")[0]: f"{ratio:.2f}x" for name, ratio in results["bench"]["speedups"].items()}
    return [
        *(unit.text(seconds, ".3f") for seconds in (shipped["budget_s"], predicted_s, ours_s, baseline_s)),
        f"{baseline_s / ours_s:.2f}x",
        against.get("onnxruntime", "not compared"),
        f"{results['verify']['max_abs_error']:.1e}",
    ]
