"""Ours and other runtimes on the same networks with the same weights, timed in turns, against the machine's peak.

python -m benchmarks.cpu_runtimes [--nets NAME,...] [--against NAME,...] [--threads 1,2] [--isa avx2] [--rounds 30]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from benchmarks.cpu_runtimes_report import as_markdown, as_svg
from benchmarks.isa import AVX2, FULL
from benchmarks.kernel_table import kernel_figures
from benchmarks.networks import PUBLISHED, RESNET, macs, network_model
from benchmarks.pinned import pinned
from benchmarks.results import save_results
from benchmarks.roofline import Roofline, measure_roofline
from pipeline.bench import CALLS, ROUNDS, BenchEntry, BenchTiming, speedup, time_interleaved
from pipeline.nets import input_shape_of
from pipeline.runtimes import RUNTIMES, BenchModel, find_peers
from targets.registry import get_target
from targets.target import Target
from tvm_latency.build import compile_onnx
from tvm_latency.schedules import SCHEDULE_VERSION

OURS = "netlathe"
AGAINST = ("onnxruntime", "openvino", "ncnn", "litert", "torch.compile")
# torch.compile alone takes a minute for a network.
DEADLINE_S = 3600.0


def entries_of(
    net: str, onnx_file: Path, targets: Sequence[Target], peers: Sequence[str]
) -> tuple[dict[str, BenchEntry], float]:
    """What to time, by label, and the seconds that it took to compile and link the first.

    Our artefact for each target, the first of them without a name of its own; every peer.
    """
    model, entries, seconds = onnx.load(onnx_file), {}, []
    for number, target in enumerate(targets):
        began = time.perf_counter()
        library = compile_onnx(model, target).export(onnx_file.with_name(f"{target.name}-{target.threads}.so"))
        seconds.append(time.perf_counter() - began)
        label = OURS if number == 0 else f"{OURS} {target.name}"
        entries[label] = BenchEntry(net, OURS, BenchModel(str(onnx_file), str(library)))
    ours = entries[OURS]
    return entries | {peer: BenchEntry(net, peer, ours.model) for peer in peers}, seconds[0]


def figures_of(timings: dict[str, BenchTiming], flops: int, peak_flops: float) -> list[dict[str, Any]]:
    """One row for each label, ours first. `times_ours` is the ratio pair by pair: above 1 is slower than ours."""
    rows = []
    for label, timing in timings.items():
        median_s = median(timing.samples_s)
        rows.append(
            {
                "runtime": label,
                "median_ms": 1e3 * median_s,
                "min_ms": 1e3 * min(timing.samples_s),
                "times_ours": speedup(timings[OURS], timing),
                "gflops": flops / median_s / 1e9,
                "share_of_peak": flops / median_s / peak_flops,
                "round_medians_ms": [round(1e3 * median(calls), 6) for calls in timing.rounds_s],
            }
        )
    return rows


def compare(
    net: str, targets: Sequence[Target], peers: Sequence[str], roofline: Roofline, **timing: Any
) -> dict[str, Any]:
    """Compile, time and take apart one network, with as many threads as the targets have.

    timing: `rounds`, `calls` and `environment` of `pipeline.bench.time_interleaved`.

    Raises:
        BenchError: runtimes disagree about its output, or the timing failed.
    """
    model, threads = network_model(net), targets[0].threads
    flops, shape = 2 * macs(model), input_shape_of(model)
    with TemporaryDirectory() as folder:
        onnx_file = Path(folder) / "net.onnx"
        onnx.save(model, onnx_file)
        entries, compile_s = entries_of(net, onnx_file, targets, peers)
        # torch.compile takes a minute to start, and these networks are large enough for one process to tell.
        found = time_interleaved(list(entries.values()), shape, threads, processes=1, deadline_s=DEADLINE_S, **timing)
    kernels = pinned(threads, kernel_figures, model, targets[0], roofline)
    return {
        "net": net,
        "threads": threads,
        "macs": flops // 2,
        "compile_s": compile_s,
        # Against the peak as it was a moment after the networks, not when the benchmark began.
        "results": figures_of(dict(zip(entries, found, strict=True)), flops, kernels["peak_flops"]),
        **kernels,
    }


def print_comparison(table: dict[str, Any]) -> None:
    """One network's table as text."""
    print(f"{table['net']}, {table['threads']} thread(s), {table['macs'] / 1e6:.0f}M MACs")
    for row in table["results"]:
        print(
            f"  {row['runtime']:18} {row['median_ms']:9.3f} ms  {row['times_ours']:6.2f} times ours  "
            f"{row['gflops']:6.1f} GFLOP/s  {row['share_of_peak']:5.0%} of peak"
        )
    print(
        f"  our kernels alone, warm: {table['kernels_warm_ms']:.3f} ms (the network between them "
        f"{table['network_ms'] / table['kernels_warm_ms']:.2f} times as long); "
        f"their bounds: {table['kernels_bound_ms']:.3f} ms; "
        f"compiled and linked in {table['compile_s']:.1f} s; "
        f"TVM's own loops: {', '.join(table['fallbacks']) or 'none'}",
        flush=True,
    )


def peer_versions(peers: Sequence[str]) -> dict[str, str]:
    """Of every package that a peer needs."""
    return {package: version(package) for peer in peers for package in RUNTIMES[peer].packages.values()}


def main() -> None:
    """Measure, print, save the figures, their tables and their plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", default=",".join((*PUBLISHED, RESNET)))
    parser.add_argument("--against", default=",".join(AGAINST))
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--isa", choices=(AVX2.name,), help="let every runtime see a CPU with no more than this")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--calls", type=int, default=CALLS)
    options = parser.parse_args()
    isa = AVX2 if options.isa else FULL
    peers = [peer.name for peer in find_peers(options.against)]
    counts = [int(count) for count in options.threads.split(",")]
    with TemporaryDirectory() as folder:
        environment = isa.environment(Path(folder))
        targets = {count: [get_target(name).with_threads(count) for name in isa.targets] for count in counts}
        rooflines = {count: pinned(count, measure_roofline, targets[count][0]) for count in counts}
        tables = []
        for net, count in product(options.nets.split(","), counts):
            timing = {"rounds": options.rounds, "calls": options.calls, "environment": environment}
            tables.append(compare(net, targets[count], peers, rooflines[count], **timing))
            print_comparison(tables[-1])
    figures = {
        "isa": isa.name,
        "schedule_version": SCHEDULE_VERSION,
        "peers": peer_versions(peers),
        "rooflines": [asdict(roofline) for roofline in rooflines.values()],
        "nets": tables,
    }
    path = save_results("cpu_runtimes", targets[counts[0]][0], figures, variant=isa.suffix)
    path.with_suffix(".md").write_text(as_markdown(figures))
    path.with_suffix(".svg").write_text(as_svg(figures))
    print(f"written to {path}, and beside it as .md and .svg")


if __name__ == "__main__":
    main()
