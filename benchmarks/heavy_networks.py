"""Do sums of operators lack time because wide operators are predicted badly, or because networks are heavy?

python -m benchmarks.heavy_networks --keep DIR [--target x86]

DIR is what `benchmarks.latency_model --keep DIR` left. Every operator of networks with more weights than any of the
space, those that the calibration was fitted to and published ones, is measured alone there too. The sum of what a
network's operators take alone, none of it predicted, then stands as a share of what the network takes, beside the same
of networks of the space.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.latency_model import AS_IT_IS
from benchmarks.networks import PUBLISHED
from benchmarks.results import save_results
from pipeline.calibration import calibrate_space, evict_bytes, workbench
from pipeline.console import ProgressView
from pipeline.measure import code_versions
from supernet.named import named_architecture
from supernet.presets import IMAGENET
from targets.registry import get_target
from targets.target import Target
from tvm_latency.calibrate import network_key
from tvm_latency.database import Context, MeasurementDatabase
from tvm_latency.drift import Steady, steady
from tvm_latency.fitting import Net
from tvm_latency.opspec import network_weight_bytes
from tvm_latency.plan import FULL
from tvm_latency.workbench import Candidate


def measured(database: MeasurementDatabase, target: Target) -> tuple[dict[str, Net], list[Net], dict[str, Steady]]:
    """Heavy networks by name, networks of the space, and the times of all of them and of their operators, by key."""
    named = {name: named_architecture(name).op_specs() for name in PUBLISHED}
    with ProgressView() as progress:
        beside = tuple(named.values())
        found = calibrate_space(IMAGENET, target, database, progress, plan=FULL, beside=beside, settings=AS_IT_IS)
        fitted = found.calibration.fitted_to
        heavy = {f"drawn {number}": net for number, net in enumerate(fitted.heavy)}
        heavy |= {name: net for name, net in named.items() if network_weight_bytes(net) > fitted.heaviest_bytes}
        cold = Context(target.fingerprint, *code_versions(target), evict_bytes(IMAGENET))
        ops = {op.key: Candidate((op,), cold) for net in [*heavy.values(), *fitted.networks] for op in net}
        with workbench(target, database, progress) as bench:
            bench.measure(ops)
    warm = Context(target.fingerprint, *code_versions(target), 0)
    nets = {network_key(net): Candidate(net, warm) for net in [*heavy.values(), *fitted.networks, *fitted.heavy]}
    rows = {key: database.find(key, candidate.context) for key, candidate in {**ops, **nets}.items()}
    return heavy, list(fitted.networks), steady({key: row.rounds for key, row in rows.items() if row})


def main() -> None:
    """Print a line for each network, and save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, required=True)
    parser.add_argument("--target", default="x86")
    options = parser.parse_args()
    target = get_target(options.target)
    with closing(MeasurementDatabase(options.keep / f"{IMAGENET.name}.sqlite")) as database:
        heavy, within, times = measured(database, target)

    def row(name: str, net: Net) -> dict[str, Any]:
        alone_s, whole_s = sum(times[op.key].seconds for op in net), times[network_key(net)].seconds
        megabytes = 1e-6 * network_weight_bytes(net)
        return {"net": name, "megabytes": megabytes, "measured_ms": 1e3 * whole_s, "alone": alone_s / whole_s}

    space = [row(f"of the space {number}", net) for number, net in enumerate(within)]
    ratios = [one["alone"] for one in space]
    print(f"{len(space)} networks of the space: alone {median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    rows = [row(name, net) for name, net in heavy.items()]
    for one in rows:
        print("{net:18} {megabytes:5.1f} MB  measured {measured_ms:7.3f} ms  alone {alone:.3f}".format(**one))
    print(f"written to {save_results('heavy_networks', target, {'heavy': rows, 'space': space})}")


if __name__ == "__main__":
    main()
