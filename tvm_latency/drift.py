"""What a measurement would have been at the machine's usual speed, told by all that ran beside it.

Clocks change, and neighbours come and go, by more than predictions may be off. Candidates that have their turns between
the same two turns of the reference met the same machine: what slowed one of them slowed the others and the reference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve
from scipy.sparse import coo_array

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
# A round may miss what its candidate and its group say by so much, on a logarithmic scale: what quiet machines scatter
# by. One that misses more pulls linearly, not squared.
USUAL_MISS = 0.01
# The fit has arrived when no group moves by more. That takes some 20 steps on a quiet machine, and several times as
# many where rounds scatter by some per cent; what is left then is far below that scatter.
FITS, ARRIVED = 200, 1e-5
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
    same turns of the reference, itself one of the candidates. Rounds in which the core was shared do not count, where
    there are others. Rows of several days are compared by the candidates that were measured on more than one of them,
    which the reference always was.
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
    """How slow the machine was in each column, on a logarithmic scale, where all rows have a mean of 0.

    Least squares of what rows and columns leave over, robust to outliers (soft L1), by reweighting. Alternating medians
    stop where no row and no column alone can be bettered, long before groups that few candidates connect are level.
    """
    rows, columns = row.max() + 1, column.max() + 1
    weights, slowness = np.ones_like(logs), np.zeros(columns)
    for _ in range(FITS):
        table = coo_array((weights, (row, column)), shape=(rows, columns)).tocsr()
        of_rows, of_columns = table.sum(axis=1), table.sum(axis=0)
        row_sums = np.bincount(row, weights * logs, rows)
        column_sums = np.bincount(column, weights * logs, columns)
        # The columns put into the equations of the rows; what these leave open, the mean of all, is set to 0.
        normal = np.diag(of_rows) - (table / of_columns @ table.T).toarray() + of_rows.mean() / rows
        takes = solve(normal, row_sums - table @ (column_sums / of_columns), assume_a="pos")
        before, slowness = slowness, (column_sums - table.T @ takes) / of_columns
        if np.abs(slowness - before).max() <= ARRIVED:
            break
        weights = 1.0 / np.hypot(1.0, (logs - takes[row] - slowness[column]) / USUAL_MISS)
    return slowness


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
