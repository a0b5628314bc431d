"""report.html: what a run did, in one file that opens without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from markupsafe import Markup
from plotly.graph_objects import Figure
from plotly.offline import get_plotlyjs

from pipeline import figures, search_section, targets_section
from pipeline.calibration import disturbance
from pipeline.config import ALSO
from supernet.architecture import SKIP, Architecture
from targets.target import unit_of
from targets.unit import MILLISECONDS, Unit

Results = Mapping[str, dict[str, Any]]
"""Stage name -> the result that the stage stored; seconds, shares, text forms of architectures."""

HOW = {
    "measured": "Timed calls alternate, so whatever the machine does meets all of them.",
    "emulated": "Nothing was timed: an emulator counted how many instructions one inference executes.",
}

GOES = {"measured": "Where the time goes", "emulated": "Where the instructions go"}
ALONE = {"measured": "measured alone with cold weights", "emulated": "emulated alone"}


def render(results: Results) -> str:
    """The page for the results of a finished run.

    Raises:
        KeyError: a stage is missing; the caller sees to it that all were performed.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    derive, baseline, shipped, train = (results[name] for name in ("derive", "baseline", "compile", "train"))
    winner_net = Architecture.from_text(derive["architecture"], name="derived network")
    baseline_net = Architecture.from_text(baseline["architecture"], name=baseline["net"])
    setup, unit = results["setup"], _unit(results)
    return environment.get_template("report.html.j2").render(
        title=f"{setup['data']} on {setup['target']['name']}, budget {unit.text(shipped['budget_s'], '.3g')}",
        subtitle=f"Space {setup['space']}, seed {setup['seed']}, {setup['target']['threads']} thread(s).",
        plotly_js=Markup(get_plotlyjs()),
        cards=_cards(results),
        drawings=[
            {
                "name": net.name,
                "facts": _facts(net, shipped[role]["measured_s"], train[role]["top1"], unit),
                "bars": _bars(net),
            }
            for role, net in (("winner", winner_net), ("baseline", baseline_net))
        ],
        key=figures.CHOICE_COLOURS,
        sections=_sections(results),
        table=_table(results),
        obtained=_obtained(results),
        machine=_machine(results),
    )


def _unit(results: Results) -> Unit:
    """Of the figures of the run's own target."""
    return unit_of(results["setup"]["target"]["runner"])


def _cards(results: Results) -> list[dict[str, str]]:
    baseline, shipped, train, verify = (results[name] for name in ("baseline", "compile", "train", "verify"))
    measured_s, baseline_s = shipped["winner"]["measured_s"], shipped["baseline"]["measured_s"]
    unit = _unit(results)
    return [
        {
            "value": unit.text(measured_s, ".3f"),
            "label": f"{unit.obtained}; budget {unit.text(shipped['budget_s'], '.3f')}",
        },
        {
            "value": f"{100 * train['winner']['top1']:.2f} %",
            "label": f"top-1 on test images; baseline {100 * train['baseline']['top1']:.2f} %",
        },
        {"value": f"{baseline_s / measured_s:.2f}x", "label": f"{unit.gain} {baseline['net']}"},
        {
            "value": f"{verify['max_abs_error']:.1e}",
            "label": f"largest difference from PyTorch, {verify['images']} images",
        },
    ]


def _facts(net: Architecture, measured_s: float, top1: float, unit: Unit) -> str:
    return (
        f"{unit.text(measured_s, '.3f')} {unit.obtained}, {100 * top1:.2f} % top-1, "
        f"{net.macs / 1e6:.1f}M MACs, {net.params / 1e6:.2f}M parameters"
    )


def _bars(net: Architecture) -> list[dict[str, Any]]:
    """What to draw for each layer of a network."""
    size = -(-net.resolution // net.stem_stride)
    stem = {"css": "fixed", "height": 30, "colour": "", "label": "conv", "channels": net.stem_channels}
    bars = [{**stem, "size": f"{net.resolution}²"}]
    for block in net.blocks:
        choice = str(block.choice)
        bars.append(
            {
                "css": "skip" if block.choice == SKIP else "",
                "height": 26 + 12 * block.choice.expand,
                "colour": figures.CHOICE_COLOURS.get(choice, figures.MUTED),
                "label": choice,
                "channels": block.out_channels,
                "size": f"{size}²",
            }
        )
        size = -(-size // block.stride)
    for label, channels in (("1x1", net.head_channels), ("linear", net.classes)):
        bars.append({**stem, "label": label, "channels": channels, "size": f"{size}²" if label == "1x1" else ""})
    return bars


def _sections(results: Results) -> list[dict[str, Any]]:
    calibrate, baseline, search, derive, train, shipped, bench = (
        results[name] for name in ("calibrate", "baseline", "search", "derive", "train", "compile", "bench")
    )
    unit = _unit(results)
    points = [
        {
            "name": "derived",
            "measured_s": shipped["winner"]["measured_s"],
            "top1": train["winner"]["top1"],
            "ours": True,
        },
        {
            "name": baseline["net"],
            "measured_s": shipped["baseline"]["measured_s"],
            "top1": train["baseline"]["top1"],
            "ours": False,
        },
    ]
    return [
        *(
            [
                _section("Every target", targets_section.text(results), table=targets_section.table(results)),
                _section(
                    "Where its time goes on each",
                    "What each operator of the derived network is taken to add to it there, and its share of the sum.",
                    table=targets_section.operators(results),
                ),
            ]
            if results["compile"].get(ALSO)
            else []
        ),
        _section(
            f"Accuracy and {unit.noun}",
            f"Both networks had the same training and the same compiler. {HOW[unit.obtained]}",
            figures.accuracy_and_latency(points, unit),
            *([figures.interleaved_samples(bench["runs"])] if unit == MILLISECONDS else []),
        ),
        _section(
            "The search",
            search_section.text(search),
            *search_section.shown(search),
            table=search_section.choices(search, derive["architecture"]),
            side_by_side=False,
        ),
        _section(
            "Training",
            "Accuracy on the augmented training images of each epoch; the test images are looked at once, at the end.",
            figures.training_curves(
                {role: [epoch["train_top1"] for epoch in train[role]["history"]] for role in ("winner", "baseline")}
            ),
        ),
        _section(
            "Can the predictions be trusted?",
            f"{calibrate['latency_table']['networks']} random networks that nothing was fitted to. What their "
            "operators take, added up and corrected as the search does (drawn): "
            f"{_accuracy(calibrate['latency_table'])} "
            f"The cost model alone, no operator measured: {_accuracy(calibrate['cost_model'])}",
            figures.predicted_against_measured(calibrate["networks"], calibrate.get("noise", 0.0), unit),
        ),
        _section(
            GOES[unit.obtained],
            f"What each operator of the derived network adds to it, as it was {ALONE[unit.obtained]} and then "
            f"corrected: {_sources(derive['operators'], unit)}. Their sum is the prediction.",
            figures.time_by_operator(derive["operators"], unit),
        ),
    ]


def _accuracy(scores: dict[str, Any]) -> str:
    rank = "unknown" if scores["spearman"] is None else f"{scores['spearman']:.3f}"
    return (
        f"{100 * scores['within_5pct']:.0f} % are within 5 % of their measurement, "
        f"{100 * scores['within_10pct']:.0f} % within 10 %, rank correlation {rank}."
    )


def _sources(operators: Sequence[dict[str, Any]], unit: Unit) -> str:
    predicted = sum(operator["source"] == "predicted" for operator in operators)
    return f"{len(operators) - predicted} {unit.obtained}" + (f", {predicted} predicted (grey)" if predicted else "")


def _section(
    title: str, text: str, *shown: Figure, table: dict[str, Any] | None = None, side_by_side: bool = True
) -> dict[str, Any]:
    html = [
        Markup(
            figure.to_html(
                full_html=False, include_plotlyjs=False, config={"displayModeBar": False, "responsive": True}
            )
        )
        for figure in shown
    ]
    return {"title": title, "text": text, "figures": html, "table": table, "side_by_side": side_by_side}


def _table(results: Results) -> dict[str, Any]:
    unit, figures_of = _unit(results), ("median", "min", "p90")
    return {
        "head": [unit.obtained, *(f"{name} ({unit.name})" for name in figures_of), "calls"],
        "rows": [
            [
                run["name"],
                *(f"{run[f'{name}_{unit.key}']:.4f}" for name in figures_of),
                len(run["samples_s"]),
            ]
            for run in results["bench"]["runs"]
        ],
    }


def _obtained(results: Results) -> dict[str, str]:
    calibrate, derive, shipped, verify = (results[name] for name in ("calibrate", "derive", "compile", "verify"))
    unit = _unit(results)
    noun = unit.noun.capitalize()
    return {
        f"{noun} of the network": f"{unit.obtained}: {unit.text(shipped['winner']['measured_s'], '.4f')} as it ships, "
        f"beside the baseline; {unit.text(derive['measured_s'], '.4f')} with untrained weights, before training",
        f"{noun} in the search": f"predicted: {unit.text(derive['predicted_s'], '.4f')} for the derived network, "
        f"{derive['rederivations']} re-derivation(s) with a tighter budget",
        "Blocks and networks": f"{unit.obtained}: {calibrate['measured']} now, {calibrate['reused']} from the "
        f"database, {len(calibrate['failures'])} failed. {disturbance(calibrate.get('disturbed', 0.0))}",
        "Accuracy": "measured on test images that neither the weights nor the architecture were trained on",
        "Agreement with PyTorch": f"measured on {verify['images']} test images: largest difference of an output "
        f"{verify['max_abs_error']:.2e}, same top-1 for {100 * verify['top1_agreement']:.2f} %; the artefact "
        f"stores its weights as {results['setup'].get('weights', 'float32')} and computes in "
        f"{results['setup'].get('dtype', 'float32')}",
    }


def _machine(results: Results) -> dict[str, str]:
    target, versions = results["setup"]["target"], results["setup"]["versions"]
    return {
        **{name.replace("_", " "): _plain(value) for name, value in target.items()},
        **{name: str(version) for name, version in versions.items()},
    }


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
