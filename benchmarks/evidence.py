"""What benchmarks of the search have in common: each step kept in a file, so that a run goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.evidence_report import Row
from benchmarks.evidence_scales import SCALES
from pipeline.artefacts import silent
from pipeline.calibration import calibrate_space, path_latency
from pipeline.console import say
from pipeline.files import read_json, write_json
from pipeline.finding import USED
from pipeline.fit import derive_within
from pipeline.measure import code_versions, measure_networks
from supernet.architecture import Architecture
from supernet.costs import Constraint, latency
from supernet.data import ImageData, Split, load_data
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


class Evidence:
    """The steps of a search's evidence on one target: what each finds is in a JSON file of its own in `folder`."""

    def __init__(
        self, name: str, source: str, seed: int, root: Path, view: Progress = silent, target: str = "x86"
    ) -> None:
        self.name, self.source, self.seed, self.root, self.view = name, source, seed, root, view
        self.scale, self.target = SCALES[name], get_target(target)
        self.threads = max(1, len(available_cpus()) // self.scale.workers)
        # Of all cores; other work beside it, or a pause, does not count. While a GPU computes, a process only waits.
        self.clock = time.perf_counter if torch.cuda.is_available() else time.process_time
        self.data: ImageData = load_data(source, self.scale.space.resolution, seed)
        # What was found with another scale, recipe, data or target is not taken for this one's.
        scale = self.scale
        rivals = [scale.mobilenet(width) for width in scale.widths]
        facts = (scale.space, rivals, scale.recipe, BUDGETS, content(self.data), self.target.name, self.target.dtype)
        owner = blake2b(repr(facts).encode(), digest_size=4).hexdigest()
        self.folder = root / f"{scale.space.name}-{owner}-seed-{seed}"
        self.machine = [self.target.fingerprint, *code_versions(self.target)]
        # Where networks are trained, of which the target may know nothing.
        self.here = get_target("x86").fingerprint
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
                disturbed = found.calibration.disturbed
                return {"seconds": found.baseline_s, "disturbed": disturbed, "machine": self.machine}

            baseline_s = self.kept("baseline", calibrated)["seconds"]
        costs = path_latency(space, LatencyTable.load(table), batch=self.target.batch)
        return {share: [latency(costs, share * baseline_s)] for share in BUDGETS}

    def measured(self, nets: Mapping[str, Architecture]) -> dict[str, float]:
        """Seconds of networks, in turns, where the calibration was made.

        Raises:
            RuntimeError: that was another machine, or another version of the schedules.
        """
        calibrated = (read_json(self.folder / "baseline.json") or {})["machine"]
        if calibrated != self.machine:
            raise RuntimeError(
                f"{self.folder} was calibrated on {calibrated}, and this is {self.machine}, whose times are others. "
                "Go on there, or begin again here with another --out."
            )
        return measure_networks(nets, self.target)

    def searched(self, share: float, limits: Sequence[Constraint]) -> Row:
        """The probabilities that a search ended with, and what it cost; kept."""
        return self.kept(f"search-{share}", partial(self._search, share, limits))

    def _search(self, share: float, limits: Sequence[Constraint]) -> Row:
        space, settings = self.scale.space, replace(self.scale.recipe.search, seed=self.seed)
        checkpoint, warmup = self.folder / f"search-{share}.checkpoint", self.folder / "warmup.checkpoint"
        found = search(
            space, self.data, limits, settings, checkpoint, self.view, warmup=warmup, notice=say, clock=self.clock
        )
        expected = found.history[-1]["expected_over_budget"]
        print(f"search for {share}x: {found.seconds:.0f} s, expected {expected:.3f} of the budget", flush=True)
        return {
            "core_seconds": found.seconds,
            "searched_on": self.here,
            "warmup_seconds": found.warmup_seconds,
            "expected_over_budget": expected,
            "probabilities": found.probabilities,
            "history": [{k: v for k, v in row.items() if k != "probabilities"} for row in found.history],
        }

    def derived(self, share: float, limits: Sequence[Constraint]) -> Row:
        """The network of a search, derived by measuring."""

        def measure(net: Architecture) -> list[tuple[float, float]]:
            times = self.measured({"network": net, "baseline": self.scale.space.baseline})
            return [(times["network"], share * times["baseline"])]

        found = self.searched(share, limits)
        attempts = derive_within(self.scale.space, found["probabilities"], limits, measure, used=USED)
        return {**found, "architecture": attempts[-1].architecture.text, "rederivations": len(attempts) - 1}

    def mobilenets(self) -> list[Row]:
        """MobileNetV2 at every width, the widest first: it takes longest."""
        widths = sorted(self.scale.widths, reverse=True)
        nets = [(f"mobilenet_v2@{width}", self.scale.mobilenet(width).text) for width in widths]
        return [{"role": "mobilenet", "name": name, "architecture": text} for name, text in nets]

    def winners(self, limits: Mapping[float, Sequence[Constraint]]) -> list[Row]:
        """The network searched for each budget."""
        found = {share: self.kept(f"searched-{share}", partial(self.derived, share, limits[share])) for share in limits}
        return [{"role": "searched", "budget": at, "name": f"searched-{at}", **row} for at, row in found.items()]

    def rivals(self, limits: Mapping[float, Sequence[Constraint]]) -> Iterator[Row]:
        """Random networks that use each budget."""
        space = self.scale.space
        for share, within in limits.items():
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
        checkpoint = self.folder / f"{row['name']}.checkpoint"
        found = train(arch, self.data, settings, checkpoint, self.view, clock=self.clock, notice=say)
        print(f"{row['name']}: top-1 {found.top1:.2%}", flush=True)
        return {
            **row,
            "top1": found.top1,
            "test_images": len(self.data.test),
            "train_core_seconds": found.seconds,
            "trained_on": self.here,
            "macs": arch.macs,
            "params": arch.params,
        }


def content(data: ImageData) -> str:
    """Differs when any image or label does; wherever they lie, and whenever they were written."""

    def parts(split: Split) -> Iterator[bytes]:
        for rows in torch.split(torch.arange(len(split)), 1000):
            for part in split.batch(rows):
                yield part.numpy().tobytes()

    digest = blake2b(digest_size=16)
    for split in (data.train, data.validation, data.test):
        for part in parts(split):
            digest.update(part)
    return digest.hexdigest()
