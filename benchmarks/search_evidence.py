"""Does the search keep its promises? Networks it finds beside MobileNetV2 at several widths and beside random networks.

python -m benchmarks.search_evidence --data DATA [--scale tiny|small|gpu] [--seeds 1] [--out DIR]

DATA is CIFAR-10 or whatever else has images of 32 pixels. Everything is trained with one recipe, compiled and measured
in turns. What is done is kept in --out, so a run that was stopped goes on; a row stands for each trained network.
`small` takes hours on two cores; `gpu` trains the full-sized space on the GPU that is there and measures on the CPU.
`small` searches and trains two networks at a time, on half of the cores each; only measurements run alone. What a
search costs is therefore counted in seconds of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.evidence_memory import memory_by_candidates
from benchmarks.evidence_report import Row, print_report, verdicts
from benchmarks.evidence_scales import SCALES
from benchmarks.results import save_results
from pipeline.artefacts import silent
from pipeline.calibration import calibrate_space, path_latency
from pipeline.console import ProgressView, say
from pipeline.files import read_json, write_json
from pipeline.finding import USED
from pipeline.fit import derive_within
from pipeline.measure import code_versions, measure_networks
from supernet.architecture import Architecture
from supernet.costs import Constraint, latency
from supernet.data import ImageData, load_data
from supernet.derive import choices_of
from supernet.sampling import RandomPaths
from supernet.search import search
from supernet.settings import Progress
from supernet.train import train
from targets.host import available_cpus
from targets.registry import get_target
from tvm_latency.database import MeasurementDatabase
from tvm_latency.latency_table import LatencyTable

BUDGETS = (0.4, 0.6, 0.8)
RANDOM_NETWORKS = 5
# Random networks cost at least so much of the budget that they are compared at; cheaper ones would be no rivals.
AT_LEAST = 0.95

_Same = tuple[str, str, int, Path]
"""What makes an `Evidence` in another process the same one."""


class Evidence:
    """One run of the benchmark: everything that it finds is in a JSON file of its own in `folder`."""

    def __init__(
        self, name: str, source: str, seed: int, root: Path, view: Progress = silent, target: str = "x86"
    ) -> None:
        self.name, self.source, self.seed, self.root, self.view = name, source, seed, root, view
        self.scale, self.target = SCALES[name], get_target(target)
        self.threads = max(1, len(available_cpus()) // self.scale.workers)
        self.data: ImageData = load_data(source, self.scale.space.resolution, seed)
        # What was found with another scale, recipe, data or machine is not taken for this one's.
        scale, machine = self.scale, self.target.fingerprint
        rivals = [scale.mobilenet(width) for width in scale.widths]
        facts = (scale.space, rivals, scale.recipe, BUDGETS, self.data.digest, code_versions(self.target), machine)
        owner = blake2b(repr(facts).encode(), digest_size=4).hexdigest()
        self.folder = root / f"{self.scale.space.name}-{owner}-seed-{seed}"
        self.database = root / "measurements.sqlite"
        self.folder.mkdir(parents=True, exist_ok=True)

    def kept(self, name: str, work: Any) -> dict[str, Any]:
        """What `work()` answers, or has answered before."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            write_json(file, work())
        return read_json(file) or {}

    def limits(self) -> dict[float, list[Constraint]]:
        """The budgets by their share of the baseline, from one calibration, which is not made again.

        Raises:
            RuntimeError: the baseline could not be run.
        """
        space, table = self.scale.space, self.folder / "latency_table.json"
        with closing(MeasurementDatabase(self.database)) as database:

            def calibrated() -> dict[str, Any]:
                found = calibrate_space(space, self.target, database, self.view)
                if found.baseline_s is None:
                    raise RuntimeError(f"The baseline could not be measured: {found.calibration.failures}")
                found.calibration.table.save(table)
                return {"seconds": found.baseline_s, "disturbed": found.calibration.disturbed}

            baseline_s = self.kept("baseline", calibrated)["seconds"]
        costs = path_latency(space, LatencyTable.load(table), batch=self.target.batch)
        return {share: [latency(costs, share * baseline_s)] for share in BUDGETS}

    def measured(self, nets: dict[str, Architecture]) -> dict[str, float]:
        """Seconds of networks and of the baseline, in turns."""
        return measure_networks({**nets, "baseline": self.scale.space.baseline}, self.target)

    def searched(self, share: float, limits: Sequence[Constraint]) -> Row:
        """The probabilities that a search ended with, and what it cost; kept."""
        return self.kept(f"search-{share}", partial(self._search, share, limits))

    def _search(self, share: float, limits: Sequence[Constraint]) -> Row:
        space, settings = self.scale.space, replace(self.scale.recipe.search, seed=self.seed)
        checkpoint, warmup = self.folder / f"search-{share}.checkpoint", self.folder / "warmup.checkpoint"
        found = search(space, self.data, limits, settings, checkpoint, self.view, warmup=warmup, notice=say)
        expected = found.history[-1]["expected_over_budget"]
        print(f"search for {share}x: {found.seconds:.0f} s, expected {expected:.3f} of the budget", flush=True)
        return {
            "core_seconds": found.seconds * self.threads,
            "warmup_seconds": found.warmup_seconds,
            "expected_over_budget": expected,
            "probabilities": found.probabilities,
            "history": [{k: v for k, v in row.items() if k != "probabilities"} for row in found.history],
        }

    def derived(self, share: float, limits: Sequence[Constraint]) -> Row:
        """The network of a search, derived by measuring."""

        def measure(net: Architecture) -> list[tuple[float, float]]:
            times = self.measured({"network": net})
            return [(times["network"], share * times["baseline"])]

        found = self.searched(share, limits)
        attempts = derive_within(self.scale.space, found["probabilities"], limits, measure, used=USED)
        return {**found, "architecture": attempts[-1].architecture.text, "rederivations": len(attempts) - 1}

    def mobilenets(self) -> list[Row]:
        """MobileNetV2 at every width, the widest first: it takes longest."""
        widths = sorted(self.scale.widths, reverse=True)
        nets = [(f"mobilenet_v2@{width}", self.scale.mobilenet(width).text) for width in widths]
        return [{"role": "mobilenet", "name": name, "architecture": text} for name, text in nets]

    def rivals(self, limits: Mapping[float, Sequence[Constraint]]) -> Iterator[Row]:
        """The network searched for each budget, and random ones that use it."""
        space = self.scale.space
        for share, within in limits.items():
            name = f"searched-{share}"
            row = self.kept(name, partial(self.derived, share, within))
            yield {"role": "searched", "budget": share, "name": name, **row}
            paths = RandomPaths(within, AT_LEAST)
            generator = torch.Generator().manual_seed(Random(f"{self.seed} {share}").getrandbits(32))
            for number in range(RANDOM_NETWORKS):
                net = space.architecture(choices_of(space, paths.draw(generator)))
                yield {"role": "random", "budget": share, "name": f"random-{share}-{number}", "architecture": net.text}

    def trained(self, row: Row) -> Row:
        """The row with its top-1, and the seconds of the training; kept."""
        return self.kept(f"trained-{row['name']}", partial(self._train, row))

    def _train(self, row: Row) -> Row:
        arch = Architecture.from_text(row["architecture"])
        settings = replace(self.scale.recipe.train, seed=self.seed)
        found = train(arch, self.data, settings, self.folder / f"{row['name']}.checkpoint", self.view, notice=say)
        print(f"{row['name']}: top-1 {found.top1:.2%}", flush=True)
        core_seconds = found.seconds * self.threads
        return {**row, "top1": found.top1, "train_core_seconds": core_seconds, "macs": arch.macs, "params": arch.params}

    def rows(self) -> list[Row]:
        """Every network, trained, then all of them measured in turns. What measures has the machine for itself."""
        limits = self.limits()
        again = (self.name, self.source, self.seed, self.root)
        with ProcessPoolExecutor(
            self.scale.workers, get_context("spawn"), torch.set_num_threads, (self.threads,)
        ) as pool:
            try:
                # The first search leaves the warm-up to the others; MobileNetV2 is trained beside it.
                first, *others = (partial(_search, again, share, within) for share, within in limits.items())
                started = pool.submit(first)
                mobilenets = pool.map(partial(_train, again), self.mobilenets())
                started.result()
                for future in [pool.submit(other) for other in others]:
                    future.result()
                rows = list(mobilenets)
                rows += pool.map(partial(_train, again), list(self.rivals(limits)))
            except BaseException:
                # What has not begun would take hours before anybody heard of it.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        nets = {row["name"]: Architecture.from_text(row["architecture"]) for row in rows}
        times = self.kept("measured", lambda: self.measured(nets))
        return [
            {"seed": self.seed, **row, "measured_s": times[row["name"]], "baseline_s": times["baseline"]}
            for row in rows
        ]


def _search(evidence: _Same, share: float, limits: Sequence[Constraint]) -> None:
    """In a process of its own: small networks use one core each better than many together."""
    Evidence(*evidence).searched(share, limits)


def _train(evidence: _Same, row: Row) -> Row:
    return Evidence(*evidence).trained(row)


def main() -> None:
    """Train, measure, print, save; exit with 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    scale, rows = SCALES[options.scale], []
    with TemporaryDirectory() as temporary, ProgressView() as view:
        root = options.out or Path(temporary)
        for seed in range(options.seeds):
            rows += Evidence(options.scale, options.data, seed, root, view).rows()
    found = {
        "scale": options.scale,
        "space": scale.space.describe(),
        "networks": rows,
        "memory": memory_by_candidates(scale.space, scale.recipe.search.batch_size),
    }
    found["verdicts"] = verdicts(found)
    print_report(found)
    print(f"written to {save_results('search_evidence', get_target('x86'), found, f'_{options.scale}')}")
    raise SystemExit(0 if all(found["verdicts"].values()) else 1)


if __name__ == "__main__":
    main()
