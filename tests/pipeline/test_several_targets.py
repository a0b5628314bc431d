"""A run for several targets: what is per target, and what has to hold on which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import finding
from pipeline.config import ConfigError, make_config, parse_shares
from pipeline.context import RunContext
from pipeline.targets_section import operators, table, text
from supernet.presets import DIGITS
from targets.target import EMULATED, LOCAL, Target
from tvm_latency.latency_table import Entry, LatencyTable

X86, V3, BOARD = "x86", "x86-64-v3", "raspberry-pi-5"


@pytest.fixture
def context(tmp_path: Path) -> Any:
    """Makes a run in which an operator takes 10 us on the first target and, by its number, more on the second."""

    def call(**options: Any) -> RunContext:
        config = make_config(also=(V3,), **options)
        run = RunContext(config, tmp_path, tmp_path / "m.sqlite", lambda *_: None, lambda sentence: None)
        run.results["setup"] = {"classes": 10, "space_source": "digits"}
        run.results["baseline"] = {"budget_s": 1e-3, "also": {V3: {"budget_s": 4e-3}}}
        for target, times_s in zip(run.targets, (lambda i: 1e-5, lambda i: 1e-6 * (i + 1))):
            entries = {op.key: Entry(times_s(i), 0.0, "measured", times_s(i)) for i, op in enumerate(DIGITS.op_specs())}
            run.place("calibrate", target).mkdir(parents=True, exist_ok=True)
            made = LatencyTable(target_name=target.name, fingerprint="here", entries=entries)
            made.save(run.place("calibrate", target) / "latency_table.json")
        return run

    return call


def test_every_target_has_a_budget_of_its_own(context: Any) -> None:
    run = context(max_params=1e5)
    assert [target.name for target in run.targets] == [X86, V3]
    first, second, other = run.constraints
    assert [c.name for c in (first, second, other)] == ["latency on x86", "latency on x86-64-v3", "parameters"]
    assert [c.budget for c in (first, second, other)] == [True, True, False]
    assert (first.limit, second.limit) == (1e-3, 4e-3)
    path = [0] * len(DIGITS.blocks)
    assert first.costs.of(path) != second.costs.of(path)
    measured = {V3: (3e-3, 4e-3), X86: (2e-3, 1e-3)}
    assert run.measured_budgets(measured) == [(2e-3, 1e-3), (3e-3, 4e-3)]


def test_a_relative_budget_is_a_share_of_what_the_calibration_measured(
    context: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s, checked = {X86: 9e-3, V3: 8e-3}, []

    def measure(nets: Any, target: Target, weights: str) -> dict[str, float]:
        assert (list(nets), weights) == ([DIGITS.baseline.name], "float32")
        return {DIGITS.baseline.name: now_s.pop(target.name)}

    monkeypatch.setattr(finding, "measure_networks", measure)
    monkeypatch.setattr(finding, "check_possible", lambda space, limits, measure: checked.append(limits))
    said: list[str] = []
    run = context(budget="0.5x")
    run.say = said.append
    run.results["calibrate"] = {"baseline_s": 2e-3, "also": {V3: {"baseline_s": 6e-3}}}
    found = finding.baseline(run, tmp_path)
    assert (found["measured_s"], found["budget_s"]) == (2e-3, 1e-3)
    assert found["also"] == {V3: {"measured_s": 6e-3, "budget_s": 3e-3}}
    assert [constraint.limit for constraint in checked[0]] == [1e-3, 3e-3]
    assert (len(now_s), said) == (2, [])

    # One that failed there, and one of a run folder from before the calibration had it.
    run = context(budget="0.5x")
    run.say = said.append
    run.results["calibrate"] = {"baseline_s": None, "also": {V3: {}}}
    found = finding.baseline(run, tmp_path)
    assert (found["budget_s"], found["also"][V3]["budget_s"]) == (4.5e-3, 4e-3)
    assert said == ["The calibration has no measurement of the baseline, so it is measured by itself."] * 2


def test_the_weighted_mean_of_shares_is_one_budget(context: Any) -> None:
    run = context(shares=(3.0, 1.0))
    (budget,) = run.constraints
    assert (budget.name, budget.limit, budget.budget) == ("latency in the weighted mean", 1e-3, True)
    alone = [run.latency_budget(target) for target in run.targets]
    for path in ([0] * len(DIGITS.blocks), [len(block.candidates) - 1 for block in DIGITS.blocks]):
        shares = [constraint.costs.of(path) / constraint.limit for constraint in alone]
        assert budget.costs.of(path) / budget.limit == pytest.approx((3 * shares[0] + shares[1]) / 4)
    # 0.75 of half the first budget and 0.25 of twice the second: 0.875.
    (mean,) = run.measured_budgets({X86: (0.5e-3, 1e-3), V3: (8e-3, 4e-3)})
    assert mean == pytest.approx((0.875e-3, 1e-3))


def test_what_differs_between_targets_is_found_by_target(context: Any, tmp_path: Path) -> None:
    run = context()
    first, second = run.targets
    found = run.for_each(lambda target: {"name": target.name})
    assert found == {"name": X86, "also": {V3: {"name": V3}}}
    run.results["verify"] = found
    assert run.result("verify", first) == {"name": X86}
    assert run.result("verify", second) == {"name": V3}
    assert run.place("deploy", first) == tmp_path / "deploy"
    assert run.place("deploy", second) == tmp_path / "deploy" / V3


def test_options_that_do_not_fit_together_are_refused() -> None:
    assert make_config(also=[V3]) == make_config(also=(V3,))
    assert make_config(also=(V3,)).name == "digits-x86_x86-64-v3-0.6x-s0"
    assert make_config(also=(V3,), shares=(2.0, 1.0)).name == "digits-x86_x86-64-v3-0.6x-s0-shares2_1"
    for options, message in (
        ({"also": (X86,)}, "given twice: x86, x86"),
        ({"shares": (1.0, 2.0)}, r"positive number for each of the targets \(x86\)"),
        ({"also": (V3,), "shares": (1.0, 0.0)}, "positive number"),
        ({"also": (V3,), "shares": (1.0, float("nan"))}, "positive number"),
        ({"also": V3}, "Option 'also' cannot be 'x86-64-v3'"),
        ({"also": None}, "Option 'also' cannot be None"),
        ({"also": (V3,), "shares": ("a", 1.0)}, "cannot be 'a'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_config(**options)
    assert parse_shares("2,1") == (2.0, 1.0)
    with pytest.raises(ConfigError, match="not numbers"):
        parse_shares("2;1")


def test_the_report_has_a_row_for_each_target() -> None:
    def part(ms: float) -> dict[str, Any]:
        return {
            "compile": {"winner": {"measured_s": 1e-3 * ms}, "baseline": {"measured_s": 3e-3 * ms}, "budget_s": 4e-3},
            "derive": {
                "predicted_s": 2e-3,
                "operators": [{"key": "stem", "seconds": 1e-3}, {"key": f"block for {ms}", "seconds": 1e-3 * ms}],
            },
            "bench": {"speedups": {"netlathe: mobilenet": 3.0, "onnxruntime: derived": 1.5}},
            "verify": {"max_abs_error": 1e-6},
        }

    results = {stage: {**found, "also": {BOARD: part(2.0)[stage]}} for stage, found in part(1.0).items()}
    other = {"target": {"runner": EMULATED}}
    results["setup"] = {"target": {"name": X86, "runner": LOCAL}, "shares": [], "also": {BOARD: other}}
    assert "every budget is kept. The rest of this page is about x86." in text(results)
    results["setup"]["shares"] = [2.0, 1.0]
    assert "weighted by [2.0, 1.0], is kept" in text(results)
    counted = "M emulated instructions"
    assert table(results)["rows"] == [
        [X86, "4.000 ms", "2.000 ms", "1.000 ms", "3.000 ms", "3.00x", "1.50x", "1.0e-06"],
        [BOARD, *(f"{count} {counted}" for count in ("4.000", "2.000", "2.000", "6.000")), "3.00x", "1.50x", "1.0e-06"],
    ]
    assert operators(results) == {
        "head": ["operator", X86, BOARD],
        "rows": [
            ["stem", "1.0000 ms (50%)", f"1.0000 {counted} (33%)"],
            ["block for 1.0", "1.0000 ms (50%)", f"2.0000 {counted} (67%)"],
        ],
    }
