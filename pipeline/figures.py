"""The figures of the report, made with Plotly; transparent, so that the page decides between light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from targets.unit import MILLISECONDS, Unit

OURS, OTHER, MUTED = "#0f766e", "#c2410c", "#94a3b8"
# Kernel size by hue, expansion by lightness; skip is grey. The architecture drawing uses the same colours.
CHOICE_COLOURS = {
    "k3e1": "#bfdbfe",
    "k3e3": "#93c5fd",
    "k3e6": "#3b82f6",
    "k5e3": "#6ee7b7",
    "k5e6": "#10b981",
    "k7e3": "#fcd34d",
    "k7e6": "#f59e0b",
    "skip": "#cbd5e1",
}


def _figure(height: int, **layout: Any) -> go.Figure:
    figure = go.Figure()
    return _style(figure, height, **layout)


def _style(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 30, "b": 50},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "inherit", "size": 13, "color": "#64748b"},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        **layout,
    )
    figure.update_xaxes(gridcolor="rgba(148,163,184,.25)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(148,163,184,.25)", zeroline=False)
    return figure


def predicted_against_measured(
    networks: Sequence[dict[str, Any]], noise: float, unit: Unit = MILLISECONDS
) -> go.Figure:
    """Networks that no fit has seen: predicted over measured latency, with bands around equality.

    networks: each with `measured_s`, `predicted_s` and `architecture`; noise: how far two measurements of one network
    are apart, as a share of its time: a standard deviation.
    """
    measured = [1e3 * net["measured_s"] for net in networks]
    predicted = [1e3 * net["predicted_s"] for net in networks]
    low, high = 0.95 * min(measured + predicted), 1.05 * max(measured + predicted)
    figure = _figure(380, xaxis_title=f"{unit.obtained} ({unit.name})", yaxis_title=f"predicted ({unit.name})")
    for share, name in ((0.05, "within 5 %"), (2 * noise, "noise of measuring (two standard deviations)")):
        figure.add_scatter(
            x=[low, high, high, low],
            y=[(1 - share) * low, (1 - share) * high, (1 + share) * high, (1 + share) * low],
            fill="toself",
            mode="none",
            fillcolor="rgba(148,163,184,.2)",
            name=name,
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[low, high], y=[low, high], mode="lines", line={"color": MUTED, "dash": "dot"}, name="equal", hoverinfo="skip"
    )
    figure.add_scatter(
        x=measured,
        y=predicted,
        mode="markers",
        marker={"color": OURS, "size": 9},
        name="held-out networks",
        text=[net["architecture"] for net in networks],
        hovertemplate=f"%{{text}}<br>{unit.obtained} %{{x:.3f}}, predicted %{{y:.3f}} {unit.name}<extra></extra>",
    )
    return figure


def probabilities_over_time(history: Sequence[Sequence[Sequence[float]]], candidates: list[list[str]]) -> go.Figure:
    """One small stacked area for each block: how the probability moves between its candidates.

    history: for each step, for each block, the probability of each candidate; candidates: their names by block.
    """
    columns = 4
    rows = math.ceil(len(candidates) / columns)
    figure = make_subplots(
        rows,
        columns,
        shared_xaxes=True,
        shared_yaxes=True,
        subplot_titles=[f"block {i + 1}" for i in range(len(candidates))],
    )
    shown: set[str] = set()
    for block, names in enumerate(candidates):
        for k, name in enumerate(names):
            figure.add_scatter(
                x=list(range(len(history))),
                y=[step[block][k] for step in history],
                stackgroup=f"block{block}",
                mode="lines",
                line={"width": 0.5, "color": CHOICE_COLOURS.get(name, MUTED)},
                name=name,
                legendgroup=name,
                showlegend=name not in shown,
                row=block // columns + 1,
                col=block % columns + 1,
            )
            shown.add(name)
    _style(figure, 130 + 150 * rows)
    figure.update_layout(legend_y=1.12 if rows < 3 else 1.06)
    figure.update_yaxes(range=[0, 1])
    return figure


def search_over_time(history: Sequence[dict[str, Any]]) -> go.Figure:
    """What is expected as a share of the budget, and the mean entropy of a block in nats, over the epochs of a search.

    history: rows with `epoch`, `expected_over_budget` and `entropy`.
    """
    figure = make_subplots(1, 2, subplot_titles=["expected / budget", "entropy of a block (nats)"])
    epochs = [row["epoch"] for row in history]
    ratios = [row["expected_over_budget"] for row in history]
    for column, values in ((1, ratios), (2, [row["entropy"] for row in history])):
        figure.add_scatter(
            x=epochs, y=values, mode="lines+markers", line_color=OURS, showlegend=False, row=1, col=column
        )
    figure.add_hline(y=1.0, line_dash="dot", line_color=MUTED, row=1, col=1)
    _style(figure, 300)
    figure.update_xaxes(title_text="epoch")
    figure.update_yaxes(rangemode="tozero", row=1, col=2)
    return figure


def _axis(unit: Unit) -> str:
    """`latency, measured (ms)`."""
    return f"latency, measured ({unit.name})" if unit == MILLISECONDS else unit.name


def accuracy_and_latency(points: Sequence[dict[str, Any]], unit: Unit = MILLISECONDS) -> go.Figure:
    """Top-1 (%) over latency, one point for each network; the better corner is at the top left.

    points: each with `name`, `measured_s`, `top1` (a share) and `ours` (whether it is the derived network).
    """
    figure = _figure(
        380,
        xaxis_title=_axis(unit),
        yaxis_title="top-1 on test images (%)",
        showlegend=False,
    )
    figure.add_scatter(
        x=[1e3 * point["measured_s"] for point in points],
        y=[100 * point["top1"] for point in points],
        mode="markers+text",
        text=[point["name"] for point in points],
        textposition="top center",
        marker={"size": 16, "color": [OURS if point["ours"] else OTHER for point in points]},
        hovertemplate=f"%{{text}}<br>%{{x:.3f}} {unit.name}, %{{y:.2f}} %<extra></extra>",
    )
    tops = [100 * point["top1"] for point in points]
    slack = max(1.0, max(tops) - min(tops))
    figure.update_xaxes(range=[0, 1.25e3 * max(point["measured_s"] for point in points)])
    figure.update_yaxes(range=[max(0.0, min(tops) - slack), min(103.0, max(tops) + slack)])
    return figure


def front_of_points(points: Sequence[dict[str, Any]], unit: Unit = MILLISECONDS) -> go.Figure:
    """Accuracy (%) over latency of the networks of a sweep; those that none beats are joined.

    points: as `pipeline.sweep.on_front` answers them; those without an accuracy are left out.
    """
    known = [p for p in points if p.get("top1", p.get("supernet_top1")) is not None]
    found: list[dict[str, Any]] = sorted(known, key=lambda point: point[unit.measured_key])
    trained = all("top1" in point for point in found)
    title = "top-1 on test images (%)" if trained else "top-1 of the shared weights on validation images (%)"
    figure = _figure(480, xaxis_title=_axis(unit), yaxis_title=title)
    for name, chosen, mode in (
        ("every budget", found, "markers+text"),
        ("front", [point for point in found if point["on_front"]], "lines"),
    ):
        figure.add_scatter(
            x=[point[unit.measured_key] for point in chosen],
            y=[100 * point.get("top1", point.get("supernet_top1", 0.0)) for point in chosen],
            mode=mode,
            text=[point["budget"] for point in chosen],
            textposition="top center",
            marker={"size": 12, "color": OURS},
            line={"color": MUTED, "dash": "dot"},
            name=name,
        )
    figure.update_xaxes(rangemode="tozero")
    return figure


def interleaved_samples(runs: Sequence[dict[str, Any]]) -> go.Figure:
    """Quartiles and whiskers of every timed call, side by side.

    runs: each with `name` and `samples_s`.
    """
    figure = _figure(380, yaxis_title="one inference (ms)", showlegend=False)
    for run in runs:
        figure.add_box(
            y=[1e3 * sample for sample in run["samples_s"]],
            name=run["name"].replace(": ", "<br>"),
            marker_color=OURS if run["name"].startswith("netlathe") else OTHER,
            boxpoints=False,
        )
    figure.update_yaxes(rangemode="tozero")
    return figure


def time_by_operator(operators: Sequence[dict[str, Any]], unit: Unit = MILLISECONDS) -> go.Figure:
    """Horizontal bars in running order: what each operator of the network takes.

    operators: each with `key`, `seconds` and `source`; those that were predicted are grey.
    """
    figure = _figure(80 + 26 * len(operators), xaxis_title=unit.name, showlegend=False)
    labels = [f"{i + 1}. {operator['key']}" for i, operator in enumerate(operators)]
    figure.add_bar(
        x=[1e3 * operator["seconds"] for operator in operators],
        y=labels,
        orientation="h",
        marker_color=[OURS if operator["source"] == "measured" else MUTED for operator in operators],
        customdata=[unit.source(operator["source"]) for operator in operators],
        hovertemplate=f"%{{y}}: %{{x:.4f}} {unit.name}, %{{customdata}}<extra></extra>",
    )
    figure.update_yaxes(autorange="reversed", automargin=True)
    return figure


def training_curves(curves: dict[str, Sequence[float]]) -> go.Figure:
    """Accuracy on the augmented training images (%) over epochs, one line for each network.

    curves: name -> a share for each epoch.
    """
    figure = _figure(380, xaxis_title="epoch", yaxis_title="top-1 while training (%)")
    for (name, values), colour in zip(curves.items(), (OURS, OTHER)):
        figure.add_scatter(
            x=list(range(1, len(values) + 1)), y=[100 * v for v in values], mode="lines", name=name, line_color=colour
        )
    return figure
