from __future__ import annotations

from typing import Any

import pytest

from pipeline import search_section
from supernet.presets import DIGITS

CANDIDATES = [[str(choice) for choice in block.candidates] for block in DIGITS.blocks]


def towards(choice: int, share: float) -> list[list[float]]:
    """Probabilities with `share` for one candidate of every block, the rest shared by the others."""
    return [
        [share if k == choice else (1 - share) / (len(block) - 1) for k in range(len(block))] for block in CANDIDATES
    ]


def found(pruned: dict[int, list[list[int]]], ranking: list[dict[str, Any]]) -> dict[str, Any]:
    """The result of a search: two epochs of warm-up, three more."""
    searched = {"expected_over_budget": 2.0, "entropy": 1.5}
    rows = [
        {"warmup": epoch <= 2, "epoch": epoch, "pruned": pruned.get(epoch, []), "probabilities": towards(0, 0.4)}
        | ({} if epoch <= 2 else searched)
        for epoch in range(1, 6)
    ]
    return {"candidates": CANDIDATES, "probabilities": towards(0, 0.4), "history": rows, "ranking": ranking}


def derived(choice: int) -> str:
    return DIGITS.architecture([block.candidates[choice] for block in DIGITS.blocks]).text


def test_each_block_says_what_was_chosen_how_clearly_and_what_was_given_up_when() -> None:
    table = search_section.choices(found({3: [[0, 5], [9, 1]], 5: [[0, 2]]}, []), derived(0))
    assert table["head"] == ["block", "chosen", "probability", "margin", "given up (after epoch)"]
    assert [row[0] for row in table["rows"]] == list(range(1, len(CANDIDATES) + 1))
    first = CANDIDATES[0]
    # 0.6 are shared by the other five: 12 % each.
    assert len(first) == 6
    assert table["rows"][0][1:4] == [first[0], "40 %", f"+28 points over {max(first[1:])}"]
    assert table["rows"][0][4] == f"{first[5]} (3), {first[2]} (5)"
    assert table["rows"][9][4] == f"{CANDIDATES[9][1]} (3)"
    assert {row[4] for row in table["rows"][1:9]} == {"none"}


def test_a_choice_that_the_budget_forced_has_a_negative_margin() -> None:
    table = search_section.choices(found({}, []), derived(1))
    assert table["rows"][0][1:4] == [CANDIDATES[0][1], "12 %", f"-28 points over {CANDIDATES[0][0]}"]


def test_a_block_without_a_choice() -> None:
    search = found({}, [])
    names = [[str(block.candidates[0])] for block in DIGITS.blocks]
    search |= {"candidates": names, "probabilities": [[1.0]] * len(names)}
    assert search_section.choices(search, derived(0))["rows"][0][2:4] == ["100 %", "+100 points over none"]


@pytest.mark.parametrize(
    ("ranking", "says", "says_not"),
    [
        ([], "the derived network is the most probable one that fits the budget", "evaluated"),
        ([{"path": [0] * 10, "reward": 0.5}] * 7, "7 networks were evaluated", "probable"),
    ],
)
def test_the_text_says_how_was_chosen(ranking: list[dict[str, Any]], says: str, says_not: str) -> None:
    text = search_section.text(found({}, ranking))
    assert says in text
    assert says_not not in text


def test_latency_is_drawn_over_the_epochs_that_had_a_budget() -> None:
    over_time, by_block = search_section.shown(found({}, []))
    latency, entropy = over_time.data
    assert (list(latency.x), list(latency.y)) == ([3, 4, 5], [2.0] * 3)
    assert list(entropy.y) == [1.5] * 3
    assert len(by_block.data[0].x) == 5, "probabilities from the first epoch on"
