"""Where benchmarks put what they measured: docs/results/NAME.json, with the machine it was measured on."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipeline.deploy import versions
from pipeline.files import write_json
from targets.target import Target

FOLDER = Path(__file__).parent.parent / "docs" / "results"


def save_results(name: str, target: Target, figures: dict[str, Any], variant: str = "") -> Path:
    """Write the figures beside the command that made them, the machine and the versions.

    variant: what tells this file from others of the same benchmark.
    """
    path = FOLDER / f"{name}{variant}.json"
    # Where something lies on one machine is nothing to anybody else.
    options = ["DIR" if Path(option).is_absolute() else option for option in sys.argv[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        path,
        {
            "command": " ".join(["python", "-m", f"benchmarks.{name}", *options]),
            "date": datetime.now(timezone.utc).date().isoformat(),
            "target": {**asdict(target), "fingerprint": target.fingerprint},
            "versions": versions(),
            **figures,
        },
    )
    return path
