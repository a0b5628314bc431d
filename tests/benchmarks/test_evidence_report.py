from __future__ import annotations

from typing import Any

import pytest

from benchmarks.evidence_report import cost_factors, percentiles, points, speedups, verdicts


def network(role: str, name: str, top1: float, ms: float, **more: Any) -> dict[str, Any]:
    figures = {"top1": top1, "test_images": 100, "measured_s": 1e-3 * ms, "baseline_s": 4e-3}
    return {"role": role, "name": name, "seed": 0, **figures, **more}


MOBILENETS = [network("mobilenet", "narrow", 0.6, 1.0), network("mobilenet", "wide", 0.8, 4.0)]


def searched(top1: float, ms: float, **more: Any) -> dict[str, Any]:
    figures = {"budget": 0.5, "core_seconds": 10.0, "train_core_seconds": 20.0, "expected_over_budget": 1.0}
    return network("searched", "found", top1, ms, **{**figures, "searched_on": "A", "trained_on": "A", **more})


def rivals(*tops: float) -> list[dict[str, Any]]:
    return [network("random", f"r{i}", top1, 2.0, budget=0.5) for i, top1 in enumerate(tops)]


def test_the_factor_is_interpolated_at_equal_accuracy() -> None:
    """Half way between 60 and 80 % MobileNetV2 takes 2 ms, the geometric mean of 1 and 4."""
    (row,) = speedups([*MOBILENETS, searched(0.7, 1.0)])
    assert row["factor"] == pytest.approx(2.0)
    assert not row["at_least"]


def test_a_width_that_a_more_accurate_one_beats_does_not_help() -> None:
    """Some width of more than 70 % takes 1.4 ms, so no network of 70 % is to be compared with 3 ms."""
    rows = [*MOBILENETS, network("mobilenet", "lucky", 0.71, 1.4), network("mobilenet", "unlucky", 0.7, 3.0)]
    (row,) = speedups([*rows, searched(0.7, 1.0)])
    assert row["factor"] == pytest.approx(1.4)


def test_beyond_the_widest_it_is_a_bound_and_below_the_narrowest_there_is_none() -> None:
    (above,) = speedups([*MOBILENETS, searched(0.9, 2.0)])
    assert (above["factor"], above["at_least"]) == (pytest.approx(2.0), True)
    (below,) = speedups([*MOBILENETS, searched(0.5, 0.1)])
    assert below["factor"] is None


def test_seeds_are_averaged_with_their_spread() -> None:
    rows = [network("random", "one", 0.6, 1.0), {**network("random", "one", 0.8, 3.0), "seed": 1}]
    (point,) = points(rows, "random")
    assert (point["top1"], point["ms"]) == (pytest.approx(0.7), pytest.approx(2.0))
    assert point["spread"] == pytest.approx(0.02**0.5)


def test_one_seed_has_the_spread_of_a_share_of_its_images() -> None:
    (point,) = points([network("random", "one", 0.8, 1.0)], "random")
    assert point["spread"] == pytest.approx(0.04)


def test_percentile_counts_rivals_of_the_same_budget_and_ties_half() -> None:
    rows = [searched(0.7, 1.0), *rivals(0.6, 0.7, 0.8, 0.5), network("random", "other", 0.1, 1.0, budget=0.9)]
    (row,) = percentiles(rows)
    assert row["percentile"] == 62.5


def test_cost_is_in_trainings() -> None:
    (row,) = cost_factors([searched(0.7, 1.0), searched(0.7, 1.0, trained_on="B")])
    assert row["factor"] == 0.5


def test_verdicts_hold_and_break_one_by_one() -> None:
    memory = [
        {"candidates": n, "largest_mb": 10.0, "recompute_mb": 11.0, "two_path_mb": 15.0, "all_paths_mb": 10.0 * n}
        for n in (2, 7)
    ]

    def broken(*rows: dict[str, Any], memory: list[dict[str, Any]] = memory) -> set[str]:
        judged = verdicts({"networks": [*MOBILENETS, *rows], "memory": memory})
        return {promise.split()[0] for promise, kept in judged.items() if not kept}

    def with_seven(**changed: float) -> list[dict[str, Any]]:
        return [memory[0], {**memory[1], **changed}]

    assert broken(searched(0.7, 1.0), *rivals(0.6, 0.6, 0.6, 0.6, 0.65)) == set()
    assert broken(searched(0.7, 1.5), *rivals(0.6)) == {"at"}
    assert broken(searched(0.7, 1.0), *rivals(0.6, 0.7, 0.8)) == {"each", "on"}
    assert broken(searched(0.7, 1.0, core_seconds=21.0), *rivals(0.6)) == {"a"}
    # Seconds of two machines say nothing of each other.
    assert broken(searched(0.7, 1.0, trained_on="B"), *rivals(0.6)) == {"a"}
    assert broken(searched(0.7, 1.0, expected_over_budget=0.96), *rivals(0.6)) == {"expected"}
    assert broken(searched(0.75, 1.4, budget=0.3), network("random", "r", 0.6, 1.0, budget=0.3)) == {"measured"}
    for changed in ({"recompute_mb": 12.01}, {"two_path_mb": 16.01}):
        assert broken(searched(0.7, 1.0), *rivals(0.6), memory=with_seven(**changed)) == {"memory"}
    grown = {"recompute_mb": 12.2, "largest_mb": 20.0}
    judged = verdicts({"networks": [*MOBILENETS, searched(0.7, 1.0), *rivals(0.6)], "memory": with_seven(**grown)})
    assert [promise for promise, kept in judged.items() if not kept] == ["memory flat in the number of candidates"]
