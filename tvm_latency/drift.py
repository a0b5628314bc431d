"""What a measurement would have been at the machine's usual speed, told by a reference that ran beside it.

Clocks change, and neighbours come and go, by more than predictions may be off. A reference network that has its turn in
every round slows down with what is measured in that round, so their ratio holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

import numpy as np

from tvm_latency.database import Round

# A standard deviation, if it were normal, for each median absolute deviation.
MAD_OF_NORMAL = 1.4826
# A reference whose mean call takes so many times as long as usual was disturbed. Its median call tells less: it may fit
# between two turns of another process on the same core, where the mean one takes 1.4 to 2.7 times as long.
DISTURBED = 1.1
# So many rounds count at least; of disturbed ones those in which the reference was least slow, since what slows the
# reference may slow a candidate more or less.
QUIET_ROUNDS = 3
# The usual speed is that which so many per cent of the rounds reach.
USUAL = 25


class Usual(NamedTuple):
    """Seconds of the fastest and of the mean call of a round of the reference, at the machine's usual speed."""

    fastest_s: float
    mean_s: float


@dataclass(frozen=True)
class Steady:
    """Seconds at the machine's usual speed, and how far rounds are from each other: a standard deviation."""

    seconds: float
    spread_s: float

    @property
    def noise(self) -> float:
        """The spread as a share of the time."""
        return self.spread_s / self.seconds


def steady(rounds: Iterable[Round], usual_s: Usual) -> Steady:
    """Each round that counts by its fastest call, with the reference's slowness taken out; of these the first quartile.

    What others do to a machine only ever takes time, so the fastest call of a round tells most of it, and the faster
    rounds tell more than the slower. The spread is that of the rounds around their median, and robust.
    """
    counted = counting(tuple(rounds), usual_s)
    corrected = np.array([min(one.samples_s) * usual_s.fastest_s / min(one.reference_samples_s) for one in counted])
    spread = MAD_OF_NORMAL * np.median(np.abs(corrected - np.median(corrected)))
    return Steady(float(np.percentile(corrected, USUAL)), float(spread))


def counting(rounds: Sequence[Round], usual_s: Usual) -> Sequence[Round]:
    """The rounds that were not disturbed; the least disturbed ones where too few are left."""
    undisturbed = quiet(rounds, usual_s)
    if len(undisturbed) >= QUIET_ROUNDS:
        return undisturbed
    return sorted(rounds, key=lambda one: fmean(one.reference_samples_s))[:QUIET_ROUNDS]


def quiet(rounds: Iterable[Round], usual_s: Usual) -> tuple[Round, ...]:
    """The rounds in which the reference was not slow."""
    return tuple(one for one in rounds if fmean(one.reference_samples_s) <= DISTURBED * usual_s.mean_s)


def usual(rounds: Sequence[Round]) -> Usual:
    """The reference at the machine's usual speed, from all rounds of many measurements; of none, a second.

    A quarter of them was faster: so a machine that is disturbed most of the time still counts as slowed down.
    """
    if not rounds:
        return Usual(1.0, 1.0)
    fastest, means = zip(*((min(one.reference_samples_s), fmean(one.reference_samples_s)) for one in rounds))
    return Usual(float(np.percentile(fastest, USUAL)), float(np.percentile(means, USUAL)))


def disturbed(rounds: Sequence[Round], usual_s: Usual) -> float:
    """The share of rounds in which the reference was slow."""
    return 1 - len(quiet(rounds, usual_s)) / len(rounds)
