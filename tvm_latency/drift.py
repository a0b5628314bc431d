"""What a measurement would have been at the machine's usual speed, told by a reference that ran beside it.

Clocks change, and neighbours come and go, by more than predictions may be off. A reference network that has its turn in
every round slows down with what is measured in that round, so their ratio holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tvm_latency.database import Round

# A standard deviation, if it were normal, for each median absolute deviation.
MAD_OF_NORMAL = 1.4826
# A reference whose mean call takes so many times as long as usual was disturbed. The median call may fit between two
# turns of another process on the same core; the mean one then takes 1.4 to 2.7 times as long, and where all is quiet
# 1.03 times as long as the median one.
DISTURBED = 1.1
# From so many quiet rounds on, the others do not count: what slows the reference may slow a candidate more or less.
QUIET_ROUNDS = 3


@dataclass(frozen=True)
class Steady:
    """Seconds at the machine's usual speed, and how far rounds are from each other: a standard deviation."""

    seconds: float
    spread_s: float

    @property
    def noise(self) -> float:
        """The spread as a share of the time."""
        return self.spread_s / self.seconds


def steady(rounds: Iterable[Round], usual_s: float) -> Steady:
    """Median over rounds of each round's median, with the reference's slowness taken out; its spread is robust too.

    usual_s: the reference at the machine's usual speed.
    """
    rounds = tuple(rounds)
    undisturbed = quiet(rounds, usual_s)
    counted = undisturbed if len(undisturbed) >= QUIET_ROUNDS else rounds
    corrected = np.array([np.median(found.samples_s) * usual_s / found.reference_s for found in counted])
    seconds = float(np.median(corrected))
    return Steady(seconds, float(MAD_OF_NORMAL * np.median(np.abs(corrected - seconds))))


def quiet(rounds: Iterable[Round], usual_s: float) -> tuple[Round, ...]:
    """The rounds in which the reference was not slow."""
    return tuple(found for found in rounds if found.reference_mean_s <= DISTURBED * usual_s)


def usual(rounds: Sequence[Round]) -> float:
    """The reference's seconds at the machine's usual speed, from all rounds of many measurements.

    A quarter of them was faster: so a machine that is disturbed most of the time still counts as slowed down.
    """
    return float(np.percentile([found.reference_s for found in rounds], 25))


def disturbed(rounds: Sequence[Round], usual_s: float) -> float:
    """The share of rounds in which the reference was slow."""
    return 1 - len(quiet(rounds, usual_s)) / len(rounds)
