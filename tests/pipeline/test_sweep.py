from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import sweep as sweeping
from pipeline.config import ConfigError, RunConfig, make_config
from pipeline.context import RunContext
from pipeline.figures import front_of_points
from pipeline.files import read_json
from pipeline.run_folder import Run, RunFolderError
from pipeline.sweep import on_front, sweep
from supernet.derive import BudgetError
from supernet.sampling import SamplingError
from targets.target import TargetError


def point(measured_ms: float, supernet_top1: float | None, **more: Any) -> dict[str, Any]:
    return {"budget": f"{measured_ms}ms", "measured_ms": measured_ms, "supernet_top1": supernet_top1, **more}


ERROR = {"budget": "0.1x", "run": "0.1x", "error": "No network fits."}


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([point(1, 0.5), point(2, 0.6)], [True, True]),
        ([point(1, 0.6), point(2, 0.5)], [True, False]),
        ([point(1, 0.5), point(1, 0.6)], [False, True]),
        ([point(1, 0.5), point(2, 0.5)], [True, False]),
        # Neither beats a point that is the same.
        ([point(1, 0.5), point(1, 0.5)], [True, True]),
        ([point(1, 0.5), point(2, 0.7), point(3, 0.6), point(4, 0.9)], [True, True, False, True]),
        # What was trained counts, not the shared weights.
        ([point(1, 0.9, top1=0.5), point(2, 0.1, top1=0.6), point(3, 0.95, top1=0.55)], [True, True, False]),
        ([ERROR, point(1, 0.5), ERROR], [None, True, None]),
        ([ERROR], [None]),
        # A derived network of candidates that were given up has no accuracy.
        ([point(1, None), point(2, 0.5)], [False, True]),
        ([], []),
    ],
)
def test_the_front_is_what_no_other_beats(points: list[dict[str, Any]], expected: list[bool | None]) -> None:
    found = on_front(points)
    assert [p.get("on_front") for p in found] == expected
    assert [{name: value for name, value in p.items() if name != "on_front"} for p in found] == points


def test_the_front_is_joined_in_order_of_latency_and_errors_are_left_out() -> None:
    every, front = front_of_points(on_front([point(3, 0.9), ERROR, point(1, 0.5), point(2, 0.4)])).data
    assert (list(every.x), list(every.text)) == ([1, 2, 3], ["1ms", "2ms", "3ms"])
    assert (list(front.x), list(front.y)) == ([1, 3], [50.0, 90.0])
    assert len(front_of_points(on_front([ERROR])).data[0].x) == 0


@pytest.mark.parametrize(
    ("trained", "title"), [(True, "top-1 on test images (%)"), (False, "top-1 of the shared weights on validation")]
)
def test_the_axis_says_which_accuracy_it_is(trained: bool, title: str) -> None:
    points = [point(1, 0.5, **({"top1": 0.7} if trained else {}))]
    figure = front_of_points(on_front(points))
    assert figure.layout.yaxis.title.text.startswith(title)
    assert list(figure.data[0].y) == [70.0 if trained else 50.0]


OTHER = "raspberry-pi-5"


class Performed:
    """Takes the place of a run's stages."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self.errors, self.done, self.warmups = errors, [], set[Path | None]()
        self.stages: list[str] = []

    def __call__(self, run: Run, context: RunContext, until: str) -> dict[str, Any]:
        budget = context.config.budget
        self.done.append(budget)
        self.warmups.add(context.warmup)
        self.stages.append(until)
        if budget in self.errors:
            raise self.errors[budget]
        share = context.config.parsed_budget.value
        last = {"warmup": False, "expected_over_budget": 1.0, "validation_top1": share}
        return {
            "derive": {"architecture": "r16", "budget_s": share, "predicted_s": share, "measured_s": 0.9 * share}
            | {"also": {OTHER: {"budget_s": 2.0, "measured_s": share}}},
            "search": {"history": [{"warmup": True}, last], "seconds": 5.0, "warmup_seconds": 3.0},
            "train": {"winner": {"top1": 0.99}},
            "compile": {"winner": {"measured_s": 0.8 * share}, "also": {}},
        }


@pytest.fixture
def performed(monkeypatch: pytest.MonkeyPatch) -> Performed:
    stages = Performed({})
    monkeypatch.setattr(sweeping, "perform", stages)
    monkeypatch.setattr(sweeping, "_shared_top1", lambda context, place: context.config.parsed_budget.value)
    return stages


def swept(config: RunConfig, budgets: list[str], out: Path | None, said: list[str], **more: Any) -> dict[str, Any]:
    return sweep(config, budgets, out=out, progress=lambda *_: None, say=said.append, **more)


def test_a_budget_that_is_none_for_a_target_is_refused_before_any_run(performed: Performed, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="budget 5ms is none for raspberry-pi-5"):
        swept(RunConfig(also=(OTHER,)), ["0.5x", "5ms"], tmp_path / "out", [])
    assert performed.done == []
    assert not (tmp_path / "out").exists()


def test_a_run_for_each_budget_from_one_warm_up(performed: Performed, tmp_path: Path) -> None:
    said: list[str] = []
    found = swept(RunConfig(also=(OTHER,)), ["0.5x", " 0.50x", "0.8x"], tmp_path / "out", said)
    assert performed.done == ["0.5x", "0.8x"], "each budget once, however it is written"
    assert performed.warmups == {tmp_path / "out" / "warmup.checkpoint"}
    assert set(performed.stages) == {"derive"}
    assert said == ["Budget 0.5x, 1 of 2.", "Budget 0.8x, 2 of 2."]
    first, second = found["points"]
    assert first == {
        "budget": "0.5x",
        "run": "0.5x",
        "architecture": "r16",
        "budget_ms": 500.0,
        "predicted_ms": 500.0,
        "measured_ms": 450.0,
        "expected_over_budget": 1.0,
        "search_seconds": 2.0,
        "warmup_seconds": 3.0,
        "also": {OTHER: {"budget_emulated_minstr": 2000.0, "emulated_minstr": 500.0}},
        "supernet_top1": 0.5,
        "on_front": True,
    }
    assert second["on_front"]
    assert read_json(tmp_path / "out" / "front.json") == {"format": "netlathe-front/1", "points": found["points"]}
    assert "plotly" in Path(found["plot"]).read_text()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".netlathe",
        "0.5x",
        "0.8x",
        "front.html",
        "front.json",
    ], "nothing half written is left"
    assert (tmp_path / "out" / "0.5x" / "config.json").exists()


def test_trained_networks_are_compared_as_they_ship(performed: Performed, tmp_path: Path) -> None:
    (point,) = swept(RunConfig(), ["0.5x"], tmp_path / "out", [], train=True)["points"]
    assert performed.stages == ["compile"]
    assert (point["top1"], point["measured_ms"]) == (0.99, 400.0)
    assert "supernet_top1" not in point


@pytest.mark.parametrize("error", [BudgetError("No network fits."), SamplingError("No network was found.")])
def test_a_budget_that_no_network_keeps_is_a_point_with_an_error(
    performed: Performed, tmp_path: Path, error: Exception
) -> None:
    performed.errors = {"0.1x": error}
    found = swept(RunConfig(), ["0.1x", "0.8x"], tmp_path / "out", [])
    assert found["points"][0] == {"budget": "0.1x", "run": "0.1x", "error": str(error)}
    assert found["points"][1]["on_front"]


def test_stopped_it_goes_on_and_keeps_what_it_has(performed: Performed, tmp_path: Path) -> None:
    performed.errors = {"0.8x": KeyboardInterrupt()}  # type: ignore[dict-item]
    with pytest.raises(KeyboardInterrupt):
        swept(RunConfig(), ["0.5x", "0.8x"], tmp_path / "out", [])
    stored = read_json(tmp_path / "out" / "front.json")
    assert stored is not None
    assert [p["budget"] for p in stored["points"]] == ["0.5x"]
    performed.errors = {}
    assert len(swept(RunConfig(), ["0.5x", "0.8x"], tmp_path / "out", [])["points"]) == 2


def test_other_budgets_are_added(performed: Performed, tmp_path: Path) -> None:
    """Those of the same options and of the same kind of accuracy; of what was asked for again only the new one."""
    out = tmp_path / "out"
    swept(RunConfig(), ["0.5x", "0.8x"], out, [])
    found = swept(RunConfig(), ["0.7x", "0.8x"], out, [])
    assert [point["budget"] for point in found["points"]] == ["0.5x", "0.7x", "0.8x"]
    assert performed.done == ["0.5x", "0.8x", "0.7x", "0.8x"]
    shutil.rmtree(out / "0.7x")
    assert [p["budget"] for p in swept(RunConfig(), ["0.8x"], out, [])["points"]] == ["0.5x", "0.8x"]
    trained = swept(RunConfig(), ["0.9x"], out, [], train=True)["points"]
    assert [point["budget"] for point in trained] == ["0.9x"]
    assert [p["budget"] for p in swept(make_config(seed=1), ["0.6x"], out, [], train=True)["points"]] == ["0.6x"]


def test_it_is_no_work_for_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"`netlathe sweep` cannot be shared by several processes. Start it without"):
        swept(RunConfig(), ["0.5x"], tmp_path / "out", [])


def test_no_budgets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"A sweep needs budgets: `--budgets 0.4x,0.6x,0.8x`"):
        swept(RunConfig(), [], tmp_path / "out", [])
    with pytest.raises(ConfigError, match="is not a number"):
        swept(RunConfig(), ["0.5x", "soon"], tmp_path / "out", [])
    assert not (tmp_path / "out").exists(), "nothing is done before all are known to be budgets"


def test_what_the_machine_does_not_do_is_said_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="x86-64-v3 does not compute in float16"):
        swept(RunConfig(target="x86-64-v3", dtype="float16"), ["0.5x"], tmp_path / "out", [])
    assert not (tmp_path / "out").exists()


def test_the_folder_of_something_else_is_refused(performed: Performed, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="is not empty and is not a run"):
        swept(RunConfig(), ["0.5x"], tmp_path, [])
    swept(RunConfig(), ["0.5x"], tmp_path / "out", [])
    with pytest.raises(RunFolderError, match=r"holds another run \(seed is 0 there, 1 here\)"):
        swept(make_config(seed=1), ["0.5x"], tmp_path / "out", [])


def test_its_own_folder_is_named_by_all_but_the_budget(
    performed: Performed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = swept(make_config(data="all-0.6x", width=0.5), ["0.5x"], None, [])
    assert found["sweep"] == "runs/sweep-all-0.6x-x86-s0-w0.5"
