from __future__ import annotations

import re
from html.parser import HTMLParser
from random import Random
from typing import Any

import pytest

from pipeline.figures import MUTED, OURS, time_by_operator
from pipeline.report import render
from supernet.presets import DIGITS
from targets.target import EMULATED


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """What the stages of a short run store."""
    random = Random(0)
    net = DIGITS.architecture([block.candidates[-1] for block in DIGITS.blocks])
    uniform = [[1 / len(block.candidates)] * len(block.candidates) for block in DIGITS.blocks]
    run = {"samples_s": [1e-3, 2e-3], "median_ms": 1.5, "min_ms": 1.0, "p90_ms": 2.0}
    return {
        "setup": {
            "data": "<digits>",
            "space": "digits",
            "seed": 0,
            "target": {
                "name": "x86",
                "cpu_model": "A CPU",
                "features": ["+fma", "+avx2"],
                "threads": 1,
                "runner": "local",
            },
            "versions": {"netlathe": "0.1.0"},
        },
        "calibrate": {
            "measured": 50,
            "reused": 3,
            "failures": {"mbconv-x": "it crashed"},
            "networks": [
                {"architecture": DIGITS.random_architecture(random).text, "predicted_s": 1e-3, "measured_s": 1.1e-3}
            ],
            "cost_model": {"within_5pct": 0.5, "within_10pct": 1.0, "spearman": None, "networks": 1},
            "latency_table": {"within_5pct": 0.5, "within_10pct": 1.0, "spearman": 0.9, "networks": 1},
        },
        "baseline": {"net": "mobilenet_v2@0.5", "architecture": DIGITS.baseline.text, "measured_s": 2e-3},
        "search": {
            "candidates": [[str(c) for c in block.candidates] for block in DIGITS.blocks],
            "probabilities": uniform,
            "ranking": [],
            "history": [
                {"warmup": True, "epoch": 1, "pruned": [], "probabilities": uniform},
                *(
                    {
                        "warmup": False,
                        "epoch": epoch,
                        "pruned": [[0, 3]] if epoch == 2 else [],
                        "probabilities": uniform,
                        "expected_over_budget": 1.08,
                        "entropy": 1.9,
                    }
                    for epoch in (2, 3)
                ),
            ],
        },
        "derive": {
            "architecture": net.text,
            "measured_s": 1e-3,
            "predicted_s": 1.1e-3,
            "budget_s": 1.2e-3,
            "rederivations": 1,
            "operators": [
                {"key": op.key, "seconds": 1e-4, "source": "measured" if i else "predicted"}
                for i, op in enumerate(net.op_specs())
            ],
        },
        "train": {
            role: {"top1": top1, "history": [{"train_top1": 0.5}, {"train_top1": top1}]}
            for role, top1 in (("winner", 0.98), ("baseline", 0.97))
        },
        "compile": {"winner": {"measured_s": 1e-3}, "baseline": {"measured_s": 2e-3}, "budget_s": 1.2e-3},
        "verify": {"images": 450, "max_abs_error": 3e-6, "top1_agreement": 1.0},
        "bench": {"runs": [{"name": name, **run} for name in ("netlathe: derived", "onnxruntime: derived")]},
    }


class Resources(HTMLParser):
    """Collects whatever a browser would load."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href") and value]


@pytest.mark.parametrize(("share", "said"), [(0.3, True), (0.01, False)])
def test_a_disturbed_machine_is_told(results: dict[str, dict[str, Any]], share: float, said: bool) -> None:
    results["calibrate"]["disturbed"] = share
    assert (f"The machine was disturbed: in {share:.0%} of the rounds" in render(results)) == said


def test_the_page_opens_without_a_network(results: dict[str, dict[str, Any]]) -> None:
    page = render(results)
    parser = Resources()
    parser.feed(page)
    assert parser.loaded == []
    assert page.count("plotly.js v") == 1, "Plotly's code is there, once"
    style = page[page.index("<style>") : page.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_the_page_says_what_was_measured_and_what_predicted(results: dict[str, dict[str, Any]]) -> None:
    page = render(results)
    for text in (
        "&lt;digits&gt; on x86, budget 1.2 ms",
        "measured: 1.0000 ms",
        "predicted: 1.1000 ms for the derived network, 1 re-derivation(s)",
        "measured: 50 now, 3 from the database, 1 failed",
        "98.00 %",
        "2.00x",
        "+fma +avx2",
        "rank correlation unknown",
        "the derived network is the most probable one that fits the budget",
        "<th>given up (after epoch)</th>",
        f"<td>{DIGITS.blocks[0].candidates[3]} (2)</td>",
        "with cold weights and then corrected: 8 measured, 1 predicted (grey).",
    ):
        assert text in page, text


def test_what_an_emulator_counted_is_never_called_time(results: dict[str, dict[str, Any]]) -> None:
    setup = results["setup"] | {"target": {"name": "raspberry-pi-5", "threads": 1, "runner": EMULATED}}
    counted = {"name": "netlathe: derived", "samples_s": [1e-3]}
    counted |= {f"{figure}_emulated_minstr": 1.0 for figure in ("median", "min", "p90")}
    page = render(results | {"setup": setup, "bench": {"runs": [counted, counted]}})
    for text in (
        "on raspberry-pi-5, budget 1.2 M emulated instructions",
        "emulated; budget 1.200 M emulated instructions",
        "fewer emulated instructions than mobilenet_v2@0.5",
        "emulated: 1.0000 M emulated instructions as it ships",
        "emulated: 50 now, 3 from the database",
        "Nothing was timed",
        "emulated alone and then corrected: 8 emulated, 1 predicted (grey).",
        ">median (M emulated instructions)</th>",
        "predicted (M emulated instructions)",
    ):
        assert text in page, text
    # Plotly's own code, the longest script, says whatever it likes; our figures are in the others.
    scripts = re.findall(r"<script.*?</script>", page, flags=re.DOTALL)
    ours = page.replace(max(scripts, key=len), "")
    assert "emulated instructions" in re.sub(r"<script.*?</script>", "", ours, flags=re.DOTALL)
    assert re.findall(r"\bms\b|[Tt]imed calls|[Mm]illisecond|[Ll]atenc|[Ww]here the time", ours) == []


def test_predicted_operators_are_grey() -> None:
    operators = [{"key": source, "seconds": 1e-4, "source": source} for source in ("measured", "predicted")]
    (bars,) = time_by_operator(operators).data
    assert bars.marker.color == (OURS, MUTED)


def test_every_block_of_both_networks_is_drawn(results: dict[str, dict[str, Any]]) -> None:
    page = render(results)
    bars = re.findall(r'<i class="(\w*)" style="height:(\d+)px', page)
    skipped = sum(block.candidates[-1].expand == 0 for block in DIGITS.blocks)
    assert [css for css, _ in bars].count("skip") == skipped
    # Stem, head and linear of each are fixed; the first block of a space is not searched.
    assert len(bars) == (1 + len(DIGITS.blocks) + 3) + (len(DIGITS.baseline.blocks) + 3)


def test_the_same_results_give_the_same_facts(results: dict[str, dict[str, Any]]) -> None:
    def without_ids(page: str) -> str:
        return re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f-]+", "", page)

    assert without_ids(render(results)) == without_ids(render(results))
