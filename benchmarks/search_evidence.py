"""Does the search keep its promises? Networks it finds beside MobileNetV2 at several widths and beside random networks.

python -m benchmarks.search_evidence --data DATA [--scale small|gpu] [--seeds 1] [--out DIR]

DATA is CIFAR-10 or whatever else has images of 32 pixels. Everything is trained with one recipe, compiled and measured
in turns. What is done is kept in --out, so a run that was stopped goes on; a row stands for each trained network.
`small` takes hours on two cores; `gpu` trains the full-sized space on the GPU that is there and measures on the CPU.
`small` trains two networks at a time, on half of the cores each; searches and measurements run alone. What a search
costs is therefore counted in seconds of one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.evidence_memory import memory_by_candidates
from benchmarks.evidence_report import print_report, verdicts
from benchmarks.results import save_results
from pipeline.artefacts import silent
from pipeline.calibration import calibrate_space, path_latency
from pipeline.console import ProgressView, say
from pipeline.files import read_json, write_json
from pipeline.finding import USED
from pipeline.fit import derive_within
from pipeline.measure import measure_networks
from supernet.architecture import Architecture
from supernet.costs import PathCosts, latency
from supernet.data import ImageData, load_data
from supernet.derive import choices_of
from supernet.named import mobilenet_v2
from supernet.presets import CIFAR
from supernet.sampling import RandomPaths
from supernet.search import search
from supernet.settings import Progress, Recipe, SearchSettings, TrainSettings
from supernet.space import SearchSpace, Stage
from supernet.train import train
from targets.host import available_cpus
from targets.registry import get_target
from tvm_latency.database import MeasurementDatabase
from tvm_latency.schedules import SCHEDULE_VERSION

BUDGETS = (0.4, 0.6, 0.8)
RANDOM_NETWORKS = 5
# Random networks cost at least so much of the budget that they are compared at; cheaper ones would be no rivals.
AT_LEAST = 0.95
# MobileNetV2 for images of 32 pixels halves them where the space beside it does: who sees more pixels sees more.
EARLY = partial(mobilenet_v2, resolution=32, classes=10, stem_stride=2, strides=(1, 1, 2, 2, 1, 1, 1))
LATE = partial(mobilenet_v2, resolution=32, classes=10, stem_stride=1, strides=(1, 1, 2, 2, 1, 2, 1))


@dataclass(frozen=True)
class Scale:
    """What is trained: a space, MobileNetV2 at these widths beside it, and the recipe of all.

    workers: how many networks are trained at a time, each in a process of its own.
    """

    space: SearchSpace
    mobilenet: Callable[[float], Architecture]
    widths: tuple[float, ...]
    recipe: Recipe
    workers: int


SMALL = Scale(
    # 16 pixels after the stem, half the widths: a few million multiply-accumulates.
    replace(
        CIFAR,
        name="cifar-small",
        stem_channels=16,
        stem_stride=2,
        first_channels=8,
        stages=(Stage(16, 2, 1), Stage(24, 3, 2), Stage(48, 3, 2), Stage(96, 3, 1)),
        head_channels=640,
        baseline=EARLY(0.5),
    ),
    EARLY,
    (0.25, 0.35, 0.5, 0.75, 1.0),
    Recipe(
        SearchSettings(
            algorithm="two-path",
            warmup_epochs=3,
            epochs=6,
            batch_size=128,
            warmup_lr=0.1,
            lr=0.05,
            weight_steps_per_alpha_step=2,
        ),
        TrainSettings(epochs=12, batch_size=128, lr=0.2, warmup_epochs=1, dropout=0.1),
    ),
    workers=2,
)
GPU = Scale(
    CIFAR,
    LATE,
    (0.35, 0.5, 0.75, 1.0, 1.4),
    Recipe(
        SearchSettings(
            warmup_epochs=15, epochs=35, batch_size=256, warmup_lr=0.2, lr=0.1, weight_steps_per_alpha_step=2
        ),
        TrainSettings(epochs=100, batch_size=256, lr=0.2, warmup_epochs=5, dropout=0.2),
    ),
    workers=1,
)
SCALES = {"small": SMALL, "gpu": GPU}


class Evidence:
    """One run of the benchmark: everything that it finds is in a JSON file of its own in `folder`."""

    def __init__(self, name: str, source: str, seed: int, root: Path, view: Progress = silent) -> None:
        self.name, self.source, self.seed, self.root, self.view = name, source, seed, root, view
        self.scale, self.target = SCALES[name], get_target("x86")
        self.data: ImageData = load_data(source, self.scale.space.resolution, seed)
        # What was found with another scale, recipe, data or machine is not taken for this one's.
        scale, machine = self.scale, self.target.fingerprint
        rivals = [scale.mobilenet(width) for width in scale.widths]
        facts = (scale.space, rivals, scale.recipe, BUDGETS, self.data.digest, SCHEDULE_VERSION, machine)
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

    def costs(self) -> PathCosts:
        """The latencies of the space's paths; what the database has is not measured again."""
        with closing(MeasurementDatabase(self.database)) as database:
            found = calibrate_space(self.scale.space, self.target, database, self.view)
        return path_latency(self.scale.space, found.calibration.table)

    def measured(self, nets: dict[str, Architecture]) -> dict[str, float]:
        """Seconds of networks and of the baseline, in turns."""
        return measure_networks({**nets, "baseline": self.scale.space.baseline}, self.target)

    def searched(self, share: float, costs: PathCosts, budget_s: float) -> dict[str, Any]:
        """Search under a budget, derive by measuring."""
        space, settings = self.scale.space, replace(self.scale.recipe.search, seed=self.seed)
        limits = [latency(costs, budget_s)]
        checkpoint = self.folder / f"search-{share}.checkpoint"
        found = search(
            space,
            self.data,
            limits,
            settings,
            checkpoint,
            self.view,
            warmup=self.folder / "warmup.checkpoint",
            notice=say,
        )

        def measure(net: Architecture) -> list[tuple[float, float]]:
            times = self.measured({"network": net})
            return [(times["network"], share * times["baseline"])]

        attempts = derive_within(space, found.probabilities, limits, measure, found.ranking, USED)
        return {
            "architecture": attempts[-1].architecture.text,
            "rederivations": len(attempts) - 1,
            "core_seconds": found.seconds * torch.get_num_threads(),
            "warmup_seconds": found.warmup_seconds,
            "expected_over_budget": found.history[-1]["expected_over_budget"],
            "history": [{k: v for k, v in row.items() if k != "probabilities"} for row in found.history],
        }

    def networks(self) -> Iterator[dict[str, Any]]:
        """Every network to be trained: its role, budget and text."""
        costs = self.costs()
        baseline_s = self.kept("baseline", lambda: {"seconds": self.measured({})["baseline"]})["seconds"]
        for width in self.scale.widths:
            yield {
                "role": "mobilenet",
                "name": f"mobilenet_v2@{width}",
                "architecture": self.scale.mobilenet(width).text,
            }
        for share in BUDGETS:
            name = f"searched-{share}"
            row = self.kept(name, partial(self.searched, share, costs, share * baseline_s))
            yield {"role": "searched", "budget": share, "name": name, **row}
            paths = RandomPaths([latency(costs, share * baseline_s)], AT_LEAST)
            generator = torch.Generator().manual_seed(Random(f"{self.seed} {share}").getrandbits(32))
            for number in range(RANDOM_NETWORKS):
                net = self.scale.space.architecture(choices_of(self.scale.space, paths.draw(generator)))
                yield {"role": "random", "budget": share, "name": f"random-{share}-{number}", "architecture": net.text}

    def trained(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row with its top-1, and the seconds of the training; kept."""
        return self.kept(f"trained-{row['name']}", partial(self._train, row))

    def _train(self, row: dict[str, Any]) -> dict[str, Any]:
        arch = Architecture.from_text(row["architecture"])
        settings = replace(self.scale.recipe.train, seed=self.seed)
        found = train(arch, self.data, settings, self.folder / f"{row['name']}.checkpoint", self.view, notice=say)
        print(f"{row['name']}: top-1 {found.top1:.2%}", flush=True)
        core_seconds = found.seconds * torch.get_num_threads()
        return {**row, "top1": found.top1, "train_core_seconds": core_seconds, "macs": arch.macs, "params": arch.params}

    def rows(self) -> list[dict[str, Any]]:
        """Every network, trained, then all of them measured in turns."""
        workers = self.scale.workers
        threads = max(1, len(available_cpus()) // workers)
        again = partial(_trained, (self.name, self.source, self.seed, self.root))
        with ProcessPoolExecutor(workers, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
            rows = [{"seed": self.seed, **row} for row in pool.map(again, list(self.networks()))]
        nets = {row["name"]: Architecture.from_text(row["architecture"]) for row in rows}
        times = self.kept("measured", lambda: self.measured(nets))
        return [{**row, "measured_s": times[row["name"]], "baseline_s": times["baseline"]} for row in rows]


def _trained(evidence: tuple[str, str, int, Path], row: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: small networks use one core each better than many together."""
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
