from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from benchmarks.cpu_runtimes import figures_of
from benchmarks.cpu_runtimes_report import as_markdown, as_svg
from benchmarks.roofline import Roofline
from pipeline.bench import BenchTiming

ROOFLINE = Roofline(
    threads=1, vector_bits=512, chains=12, flops=200e9, bytes_s={"l1": 400e9, "l2": 200e9, "l3": 100e9, "memory": 20e9}
)


def kernel(name: str, calls: int, warm_s: float, flops: int | None) -> dict[str, Any]:
    row = {
        "kernel": name,
        "kind": name,
        "shape": "7x7 1->2",
        "calls": calls,
        "warm_s": warm_s,
        "flops": flops,
        "peak_flops": 200e9,
        "traffic": 2048,
    }
    return {**row, "bound_s": warm_s / 2, "share_of_bound": 0.5}


def figures(threads: tuple[int, ...] = (1, 2)) -> dict[str, Any]:
    timings = {
        "netlathe": BenchTiming("n", "netlathe", ((0.002, 0.002), (0.004, 0.004))),
        "a<b": BenchTiming("n", "a<b", ((0.003, 0.003), (0.006, 0.006))),
    }
    kernels = [kernel("big", 2, 1e-3, 400_000), kernel("loops", 1, 5e-4, None), kernel("little", 1, 1e-6, 10)]
    table = {
        "net": "n",
        "compile_s": 2.04,
        "macs": 100_000_000,
        "peak_flops": ROOFLINE.flops,
        "results": figures_of(timings, 200_000_000, ROOFLINE.flops),
        "kernels": kernels,
        "kernels_warm_ms": 2.501,
        "kernels_bound_ms": 1.25,
        "network_ms": 2.751,
        "fallbacks": ["loops"],
    }
    return {
        "isa": "avx2",
        "schedule_version": 7,
        "rooflines": [{"flops": 200e9, "vector_bits": 512, "threads": n, "bytes_s": ROOFLINE.bytes_s} for n in threads],
        "nets": [{**table, "threads": count} for count in threads],
    }


def test_ratios_are_taken_pair_by_pair_and_peaks_from_medians() -> None:
    ours, other = figures()["nets"][0]["results"]
    assert (ours["times_ours"], other["times_ours"]) == (1.0, 1.5)
    assert ours["median_ms"] == 3.0
    assert abs(ours["share_of_peak"] - 200e6 / 0.003 / 200e9) < 1e-12
    assert ours["round_medians_ms"] == [2.0, 4.0]


def test_the_tables_say_everything_once() -> None:
    text = as_markdown(figures())
    assert "| 1 | 200 GFLOP/s in 512-bit vectors | 400 GB/s | 200 GB/s | 100 GB/s | 20 GB/s |" in text
    assert "Instructions: avx2. Schedule version 7." in text
    ours = "3.00 ms | 4.50 ms (1.50x) | 33% of 200 GFLOP/s | 1.50x | 2.50 ms | 1.10 times that | 1.25 ms | 2.0 s"
    assert f"| n | 1 | {ours} |" in text
    assert "| big 7x7 1->2 | 2 | 1000.0 us | 0 | 2 KiB | 500.0 us | 50% |" in text
    assert "| loops 7x7 1->2 | 1 | 500.0 us | - |" in text
    assert "little" not in text
    assert "1 more make the rest of the time." in text


def test_large_products_of_published_networks_are_counted() -> None:
    found = figures(threads=(1,))
    table = found["nets"][0]
    rows = [{**kernel("pointwise", 1, seconds, 20_000_000), "peak_flops": 200e9} for seconds in (1.1e-4, 2e-4, 1.25e-4)]
    others = [kernel("pointwise", 1, 1.0, 9_999_999), kernel("other", 1, 1.0, 10**9)]
    table |= {"net": "mobilenet_v2", "kernels": [*rows, *others]}
    assert "1 thread(s): 1 of 3 pointwise kernels of 10 MFLOP and more" in as_markdown(found)
    assert "the slowest 50.0%" in as_markdown(found)


def test_the_plot_is_small_xml_with_a_bar_for_every_runtime() -> None:
    text = as_svg(figures())
    root = ElementTree.fromstring(text)
    bars = [rect for rect in root.iter("{http://www.w3.org/2000/svg}rect") if rect.get("class") in ("ours", "other")]
    assert len(bars) == 4
    assert float(bars[0].get("width", 0)) > float(bars[1].get("width", 0)) > 0
    assert "a&lt;b" in text
    assert "33 %, 4.50 ms" not in text
    assert "22 %, 4.50 ms (1.50x ours)" in text
    assert len(text) < 5000


def test_a_kernel_is_bound_by_what_it_computes_or_by_what_it_moves() -> None:
    assert ROOFLINE.bound_s(200e9, 0, l2_bytes=1 << 20) == 1.0
    assert ROOFLINE.bound_s(1, 1 << 20, l2_bytes=1 << 20) == (1 << 20) / 200e9
    assert ROOFLINE.bound_s(1, 1 << 21, l2_bytes=1 << 20) == (1 << 21) / 100e9
