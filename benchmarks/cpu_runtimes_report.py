"""Tables and plot of `benchmarks.cpu_runtimes`, made again from its figures.

python -m benchmarks.cpu_runtimes_report [docs/results/cpu_runtimes.json]

The plot is an SVG of a few kilobytes: GitHub shows it in a page, it can be compared line by line, and nothing has to be
installed for it. Plotly would need a browser to write one, and its HTML is not shown there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from benchmarks.networks import PUBLISHED
from benchmarks.results import FOLDER

# Kernels that make this share of a network's kernel time stand in its table; the others are in the JSON file.
SHOWN_SHARE = 0.9
# Products so large are expected to reach this share of the FMA peak.
PRODUCT, LARGE_FLOPS, FAST_SHARE = "pointwise", 10_000_000, 0.85


def as_markdown(figures: dict[str, Any]) -> str:
    """All tables: the machine's bounds, the runtimes for each network, the dearest kernels of each."""
    return "\n".join(_lines(figures)) + "\n"


def as_svg(figures: dict[str, Any]) -> str:
    """Bars: for each number of threads and network the share of the FMA peak that every runtime reaches."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    counts = sorted({table["threads"] for table in figures["nets"]})
    nets = list(dict.fromkeys(table["net"] for table in figures["nets"]))
    tables = {(table["net"], table["threads"]): table for table in figures["nets"]}
    rows = max(len(table["results"]) for table in figures["nets"])
    return environment.get_template("cpu_runtimes.svg.j2").render(counts=counts, nets=nets, tables=tables, rows=rows)


def _lines(figures: dict[str, Any]) -> Iterator[str]:
    yield "| threads | FMA peak at the beginning | L1 | L2 | L3 | memory |"
    yield "|---|---|---|---|---|---|"
    for roofline in figures["rooflines"]:
        rates = (f"{roofline['bytes_s'][level] / 1e9:.0f} GB/s" for level in ("l1", "l2", "l3", "memory"))
        peak = f"{roofline['flops'] / 1e9:.0f} GFLOP/s in {roofline['vector_bits']}-bit vectors"
        yield f"| {roofline['threads']} | {peak} | {' | '.join(rates)} |"
    yield f"\nInstructions: {figures['isa']}. Schedule version {figures['schedule_version']}."
    yield from _runtimes(figures["nets"])
    for table in figures["nets"]:
        yield from _kernels(table)


def _runtimes(tables: list[dict[str, Any]]) -> Iterator[str]:
    runtimes = [row["runtime"] for row in tables[0]["results"]]
    sums = "best of the others / ours | kernels alone, warm | the network between them | their bounds | compiled in"
    yield f"\n| network | threads | {' | '.join(runtimes)} | of the FMA peak | {sums} |"
    yield "|---" * (len(runtimes) + 8) + "|"
    for table in tables:
        ours, *others = table["results"]
        cells = [f"{ours['median_ms']:.2f} ms"]
        cells += [f"{row['median_ms']:.2f} ms ({row['times_ours']:.2f}x)" for row in others]
        warm, network = table["kernels_warm_ms"], table["network_ms"]
        peers = [row["median_ms"] for row in others if not row["runtime"].startswith(ours["runtime"])]
        sums = f"{min(peers) / ours['median_ms']:.2f}x | {warm:.2f} ms | {network / warm:.2f} times that"
        sums += f" | {table['kernels_bound_ms']:.2f} ms | {table['compile_s']:.1f} s"
        cells += [f"{ours['share_of_peak']:.0%} of {table['peak_flops'] / 1e9:.0f} GFLOP/s", sums]
        yield f"| {table['net']} | {table['threads']} | {' | '.join(cells)} |"
    yield "\nIn brackets: how many times as long as ours, pair by pair."
    yield from _large_products(tables)


def _large_products(tables: list[dict[str, Any]]) -> Iterator[str]:
    for threads in sorted({table["threads"] for table in tables}):
        rows = [
            row
            for table in tables
            if table["threads"] == threads and table["net"] in PUBLISHED
            for row in table["kernels"]
            if row["kind"] == PRODUCT and row["flops"] >= LARGE_FLOPS
        ]
        shares = [row["flops"] / row["warm_s"] / row["peak_flops"] for row in rows]
        if shares:
            fast = sum(share >= FAST_SHARE for share in shares)
            yield (
                f"\n{threads} thread(s): {fast} of {len(shares)} pointwise kernels of {LARGE_FLOPS / 1e6:g} MFLOP and "
                f"more in the published networks reach {FAST_SHARE:.0%} of the FMA peak; the slowest {min(shares):.1%}."
            )


def _kernels(table: dict[str, Any]) -> Iterator[str]:
    yield f"\n### Kernels of {table['net']}, {table['threads']} thread{'s' if table['threads'] > 1 else ''}\n"
    yield "| kernel | calls | warm | GFLOP/s | bytes | bound | of the bound |"
    yield "|---|---|---|---|---|---|---|"
    shown_s = 0.0
    for number, row in enumerate(table["kernels"]):
        if shown_s > SHOWN_SHARE * table["kernels_warm_ms"] / 1e3:
            yield f"\n{len(table['kernels']) - number} more make the rest of the time."
            break
        shown_s += row["calls"] * row["warm_s"]
        rate = f"{row['flops'] / row['warm_s'] / 1e9:.0f}" if row["flops"] else "-"
        yield (
            f"| {row['kind']} {row['shape']} | {row['calls']} | {1e6 * row['warm_s']:.1f} us | {rate} | "
            f"{row['traffic'] / 1024:.0f} KiB | {1e6 * row['bound_s']:.1f} us | {row['share_of_bound']:.0%} |"
        )


def main() -> None:
    """Write the tables and the plot beside the figures, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", type=Path, default=FOLDER / "cpu_runtimes.json")
    path = parser.parse_args().file
    figures = json.loads(path.read_text())
    path.with_suffix(".md").write_text(as_markdown(figures))
    path.with_suffix(".svg").write_text(as_svg(figures))
    print(as_markdown(figures), end="")


if __name__ == "__main__":
    main()
