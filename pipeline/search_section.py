"""The report on a search: what moved, what was given up and when, and how clear each choice was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline import figures
from supernet.architecture import Architecture

LEARNT = (
    "What is expected over the budget, and how undecided the search was (mean entropy of a block's candidates), over "
    "the epochs. Below that the probability of each candidate, block by block: the derived network is the most "
    "probable one that fits the budget. What is less likely than a threshold is given up with its weights; the table "
    "says when, and by how much each choice was ahead of the next at the end."
)
RANKED = (
    "{count} networks were evaluated after the weights had learnt; the derived network is the best of those that fit "
    "the budget, or the likeliest by their shares where none does. Shown are shares among the best: what they take "
    "over the budget and mean entropy by them, over epochs and generations; below that the share of each candidate, "
    "block by block. The table says by how much each choice was ahead of the next at the end."
)


def text(search: Mapping[str, Any]) -> str:
    """What the section says."""
    return RANKED.format(count=len(search["ranking"])) if search["ranking"] else LEARNT


def shown(search: Mapping[str, Any]) -> list[Any]:
    """Its figures, of Plotly."""
    history = search["history"]
    searched = [row for row in history if not row["warmup"]]
    return [
        figures.search_over_time(searched),
        figures.probabilities_over_time([row["probabilities"] for row in history], search["candidates"]),
    ]


def choices(search: Mapping[str, Any], derived: str) -> dict[str, Any]:
    """A table with a row for each block: what was chosen, how likely it was, its margin, and what was given up when.

    derived: the derived network's text.
    """
    names, probabilities = search["candidates"], search["probabilities"]
    chosen = [str(block.choice) for block in Architecture.from_text(derived).blocks[1:]]
    pruned = _pruned(search["history"])
    rows = []
    for block, (candidates, p, choice) in enumerate(zip(names, probabilities, chosen)):
        others = [(share, name) for name, share in zip(candidates, p) if name != choice]
        share, (next_share, next_name) = p[candidates.index(choice)], max(others, default=(0.0, "none"))
        given_up = ", ".join(f"{candidates[k]} ({epoch})" for k, epoch in pruned.get(block, []))
        margin = f"{100 * (share - next_share):+.0f} points over {next_name}"
        rows.append([block + 1, choice, f"{100 * share:.0f} %", margin, given_up or "none"])
    return {"head": ["block", "chosen", "probability", "margin", "given up (after epoch)"], "rows": rows}


def _pruned(history: Sequence[Mapping[str, Any]]) -> dict[int, list[tuple[int, int]]]:
    """Block -> (candidate, epoch) of each that was given up."""
    found: dict[int, list[tuple[int, int]]] = {}
    for row in history:
        for block, candidate in row["pruned"]:
            found.setdefault(block, []).append((candidate, row["epoch"]))
    return found
