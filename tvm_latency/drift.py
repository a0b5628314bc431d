"""What a measurement would have been at the machine's usual speed, told by all that ran beside it.

Clocks change, and neighbours come and go, by more than predictions may be off. Candidates that have their turns between
the same two turns of the reference met the same machine: what slowed one of them slowed the others and the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from tvm_latency.database import Round

# A standard deviation, if it were normal, for each median absolute deviation.
MAD_OF_NORMAL = 1.4826
# A round is told by the call that so many per cent of its calls do not reach: what others do only ever takes time.
FAST = 25
# The usual speed is that which the machine had in so many per cent of the rounds.
USUAL = 25
# Rounds in which the machine was so many times as slow as usual do not count: what slows the others by so much slows a
# candidate by more or less. Where fewer than three others are left, those count in which it was least slow.
SLOW, LEAST_ROUNDS = 1.3, 3
# Tukey's polish of a table has arrived long before.
POLISHES = 10
# A reference whose mean call takes so many times as long as usual was disturbed. Its median call tells less: it may fit
# between two turns of another process on the same core, where the mean one takes 1.4 to 2.7 times as long.
DISTURBED = 1.1
# And if it takes so many times as long, another process had a share of the core. Long calls met it each time, short
# ones hardly: what ran beside each other says nothing of each other then.
STOLEN = 1.5

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Steady:
    """Seconds at the machine's usual speed, how far rounds are from each other (a standard deviation), and in how many
    of them the machine was not slow.
    """

    seconds: float
    spread_s: float
    calm_rounds: int = LEAST_ROUNDS

    @property
    def noise(self) -> float:
        """The spread as a share of the time."""
        return self.spread_s / self.seconds


def steady(measured: Mapping[str, Sequence[Round]]) -> dict[str, Steady]:
    """What each of the candidates takes, from the rounds of all of them; those without a round are left out.

    Logarithms of seconds are a sum of what the candidate takes and how slow the machine was in its group, which has the
    same turns of the reference: by Tukey's median polish (Exploratory Data Analysis, 1977, chapter 11), with the
    reference as one of the candidates. Rounds in which the core was shared do not count, where there are others.
    """
    if not any(measured.values()):
        return {}
    rounds = [(key, one) for key, found in _undivided(measured).items() for one in found]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(key for key, _ in rounds))}
    groups = {one.reference_samples_s: _fast(one.reference_samples_s) for _, one in rounds}
    group_numbers = {group: number for number, group in enumerate(groups)}
    # The table's entries: the candidates' rounds, then the reference's turns, in the row after the last candidate.
    row = np.array([numbers[key] for key, _ in rounds] + [len(numbers)] * len(groups))
    column = np.array([group_numbers[one.reference_samples_s] for _, one in rounds] + list(group_numbers.values()))
    logs = np.array([_fast(one.samples_s) for _, one in rounds] + list(groups.values()))
    slowness = _slowness(logs, row, column)
    slowness -= np.percentile(slowness[column[: len(rounds)]], USUAL)
    level = logs - slowness[column]
    return {key: _steady(level[row == number], slowness[column[row == number]]) for key, number in numbers.items()}


def _undivided(measured: Mapping[str, Sequence[Round]]) -> dict[str, list[Round]]:
    """Of each candidate the rounds in which it had the core to itself; at least those three that were nearest to it."""
    means = {one: fmean(one.reference_samples_s) for found in measured.values() for one in found}
    most = STOLEN * _usual(means.values())

    def of_candidate(found: Sequence[Round]) -> list[Round]:
        count = sum(means[one] <= most for one in found)
        return sorted(found, key=means.__getitem__)[: max(count, LEAST_ROUNDS)]

    return {key: of_candidate(found) for key, found in measured.items()}


def _usual(means: Iterable[float]) -> float:
    """A quarter of them was faster: so a machine that is disturbed most of the time still counts as slowed down."""
    return float(np.percentile([*means], USUAL))


def _fast(samples_s: Sequence[float]) -> float:
    """The logarithm of a fast call of a round."""
    return float(np.log(np.percentile(samples_s, FAST)))


def _slowness(logs: Numbers, row: NDArray[np.int_], column: NDArray[np.int_]) -> Numbers:
    """How slow the machine was in each column, on a logarithmic scale."""
    of_rows, of_columns = _medians(row), _medians(column)
    takes = of_rows(logs)
    for _ in range(POLISHES):
        slowness = of_columns(logs - takes[row])
        takes = of_rows(logs - slowness[column])
    return slowness


def _medians(index: NDArray[np.int_]) -> Callable[[Numbers], Numbers]:
    """A function that answers the median of the values of each index."""
    order = np.argsort(index, kind="stable")
    ends = np.cumsum(np.bincount(index))[:-1]
    return lambda values: np.array([np.median(part) for part in np.split(values[order], ends)])


def _steady(level: Numbers, slowness: Numbers) -> Steady:
    calm = int((slowness <= np.log(SLOW)).sum())
    counted = np.argsort(slowness, kind="stable")[: max(calm, LEAST_ROUNDS)]
    seconds = np.exp(level[counted])
    typical = float(np.median(seconds))
    return Steady(typical, float(MAD_OF_NORMAL * np.median(np.abs(seconds - typical))), calm)


def disturbed(rounds: Iterable[Round]) -> tuple[bool, ...]:
    """Whether each of the rounds of many measurements was disturbed: the reference's mean call was slow."""
    means = np.array([fmean(one.reference_samples_s) for one in rounds])
    return tuple((means > DISTURBED * _usual(means)).tolist()) if len(means) else ()
