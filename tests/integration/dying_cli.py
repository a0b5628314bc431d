"""`netlathe` with the space `tiny`, of whose ranks the second dies once: at the 100th step of the weights.

The file that NETLATHE_DIED names is there afterwards, and from then on no rank dies.
"""

import os
import signal
from itertools import count
from pathlib import Path
from typing import Any

from tiny import add_tiny_space

from pipeline.cli import main
from supernet.weights import SuperNetWeights

STEP = SuperNetWeights.step
CALLS = count(1)


def step(self: SuperNetWeights, *arguments: Any) -> float:
    died = Path(os.environ["NETLATHE_DIED"])
    if next(CALLS) == 100 and os.environ["RANK"] == "1" and not died.exists():
        died.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return STEP(self, *arguments)


if __name__ == "__main__":
    add_tiny_space("tiny")
    SuperNetWeights.step = step  # type: ignore[method-assign]
    main()
