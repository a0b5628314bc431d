"""A calibration while another process steals the core that is measured on, for half of the passes.

python -m benchmarks.drift [--spaces imagenet,cifar] [--target x86] [--keep DIR]

With --keep the samples are left in a folder; given once more, they are judged again, and what they lack is measured.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.latency_model import scores_line
from benchmarks.results import save_results
from pipeline.calibration import calibrate_space, disturbance
from pipeline.console import ProgressView
from supernet.presets import preset
from supernet.settings import Progress
from supernet.space import SearchSpace
from targets.host import available_cpus
from targets.registry import get_target
from targets.target import Target
from tvm_latency.database import MeasurementDatabase
from tvm_latency.plan import FULL

# What the model promises although it was disturbed.
SPEARMAN = 0.95


@contextmanager
def stealing(progress: Progress) -> Iterator[Progress]:
    """A progress callback that lets a busy process run on the measured core for the first half of the measuring.

    Not while anything is built: that takes longer, but takes no harm.
    """
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as thief:
        # One thread is measured on the last core; see `targets.local`.
        os.sched_setaffinity(thief.pid, {available_cpus()[-1]})
        thief.send_signal(signal.SIGSTOP)

        def watched(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
            steals = stage == "measure" and done < total / 2
            thief.send_signal(signal.SIGCONT if steals else signal.SIGSTOP)
            progress(stage, done, total, figures)

        try:
            yield watched
        finally:
            thief.kill()


def calibrated(space: SearchSpace, target: Target, folder: Path) -> dict[str, Any]:
    """What a disturbed calibration of the space says, of the machine and of networks that it was not fitted to."""
    with (
        closing(MeasurementDatabase(folder / f"{space.name}.sqlite")) as database,
        ProgressView() as shown,
        stealing(shown) as progress,
    ):
        found = calibrate_space(space, target, database, progress, plan=FULL).calibration
    promises = {
        f"Spearman >= {SPEARMAN}": (found.accuracy.networks.spearman or 0.0) >= SPEARMAN,
        "it says that it was disturbed": disturbance(found.disturbed) != "",
        "in about half of the rounds": 0.25 < found.disturbed < 0.75,
    }
    print(
        f"{space.name}: disturbed {found.disturbed:.0%}, noise {found.accuracy.noise:.2%}, {len(found.failures)} failed"
    )
    print(scores_line("latency table, corrected", found.accuracy.networks))
    broken = [promise for promise, kept in promises.items() if not kept]
    print(f"  BROKEN: {', '.join(broken)}" if broken else "  every promise kept", flush=True)
    return {
        "space": space.name,
        "disturbed": found.disturbed,
        "accuracy": asdict(found.accuracy),
        "promises": promises,
    }


def main() -> None:
    """Calibrate, judge, print, save; exit with 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--spaces", default="imagenet,cifar")
    parser.add_argument("--target", default="x86")
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    target = get_target(options.target)
    with nullcontext(options.keep) if options.keep else TemporaryDirectory() as folder:
        tables = [calibrated(preset(name), target, Path(folder)) for name in options.spaces.split(",")]
    print(f"written to {save_results('drift', target, {'spaces': tables})}")
    sys.exit(0 if all(all(table["promises"].values()) for table in tables) else 1)


if __name__ == "__main__":
    main()
