"""How long `netlathe compile` takes for machines elsewhere, the first time and then.

python -m benchmarks.compile_time [--net mobilenet_v2] [--targets android-arm64,armv7-cortex-a9,riscv64] [--repeats 3]

The first time nothing is there: no kernel, no C library of Zig's, no answer of the emulator's. Each command is a
process of its own, which verifies what it compiles under an emulator.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.results import save_results
from targets.registry import get_target

FIRST_S, THEN_S = 60.0, 8.0
NETLATHE = Path(sys.executable).with_name("netlathe")


def timed(net: str, target: str, repeats: int) -> dict[str, Any]:
    """Seconds of each command, and what the last one left."""
    with TemporaryDirectory() as folder:
        home = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "ZIG_GLOBAL_CACHE_DIR"), folder)
        out, seconds = Path(folder) / "out", []
        for _ in range(1 + repeats):
            start = perf_counter()
            command = [str(NETLATHE), "compile", net, "--target", target, "--out", str(out)]
            subprocess.run(command, env={**os.environ, **home}, stdout=subprocess.DEVNULL, check=True)
            seconds.append(perf_counter() - start)
        verification = json.loads((out / "manifest.json").read_text())["verification"]
        size = (out / "netbench").stat().st_size
    return {"net": net, "target": target, "seconds": seconds, "netbench_bytes": size, "verification": verification}


def main() -> None:
    """Print a line for each target, save, and exit with 1 if one took too long."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", default="mobilenet_v2")
    parser.add_argument("--targets", default="android-arm64,armv7-cortex-a9,riscv64")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    rows = []
    for target in options.targets.split(","):
        rows.append(timed(options.net, target, options.repeats))
        first, *then = rows[-1]["seconds"]
        print(f"{target}: {first:.1f} s, then {', '.join(f'{one:.1f}' for one in then)} s", flush=True)
    print(f"written to {save_results('compile_time', get_target('x86'), {'rows': rows})}")
    sys.exit(any(row["seconds"][0] > FIRST_S or max(row["seconds"][1:]) > THEN_S for row in rows))


if __name__ == "__main__":
    main()
