"""LatencyTable: the seconds of every operator of a space on one target, and of the networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter, ValidationError
from scipy.optimize import least_squares

from tvm_latency.drift import MAD_OF_NORMAL
from tvm_latency.opspec import OpSpec

FORMAT: Literal["netlathe-latency-table/1"] = "netlathe-latency-table/1"

# Random networks take nearly the same time, so the three terms of a correction are hard to tell apart. Where the data
# do not insist, a network's latency is its blocks' own; these are standard deviations of what may differ.
NOISE = 0.02  # of a network's time, beyond which it is an outlier that pulls linearly, not squared
OFFSET_SHARE = 0.1  # of a network's time
SCALE_SPREAD = 0.3
ALONE_SHARE = 0.5  # of the sum of a network's blocks

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class LatencyTableError(ValueError):
    """The file is not a latency table, or too little was measured to correct network latencies."""


class MissingLatencyError(LookupError):
    """A table was asked for an operator that it has no latency for."""

    def __str__(self) -> str:
        """The sentence itself: LookupError would be shown as it is, KeyError in quotes."""
        return str(self.args[0])


@dataclass(frozen=True)
class Prediction:
    """Expected seconds and their standard deviation."""

    mean_s: float
    spread_s: float


@dataclass(frozen=True)
class Entry:
    """The latency of an operator run alone: the median where measured, the expectation where predicted."""

    seconds: Positive
    spread_s: NonNegative
    source: Literal["measured", "predicted"]


def kernels(op: OpSpec) -> int:
    """Convolutions, products and pools that the operator runs one after the other."""
    return 2 + op.expands if op.kind == "mbconv" else 1


@dataclass(frozen=True)
class NetworkCorrection:
    """From operators measured alone to a network: `offset_s + scale * sum(block)`.

    Alone, every kernel is called cold: its code and the virtual machine's have left the caches with the weights. In a
    network they have not, so `alone_s` is taken off for each kernel, and off no operator more than half its time. On
    small networks that is most of the difference. All terms are linear in the blocks, so that an expectation over
    paths stays linear in their probabilities; none is negative, so that no network takes 0 s.

    spread: how far networks are from that, a standard deviation as a share of their time.
    """

    offset_s: NonNegative = 0.0
    scale: NonNegative = 1.0
    alone_s: NonNegative = 0.0
    spread: NonNegative = 0.0

    def block(self, op: OpSpec, seconds: float) -> float:
        """Seconds of an operator without what it pays only when it runs alone."""
        return max(seconds - self.alone_s * kernels(op), 0.5 * seconds)

    def network(self, blocks: Iterable[tuple[OpSpec, float]]) -> float:
        """Seconds of the network of these operators, each with its seconds alone."""
        return self.offset_s + self.scale * sum(self.block(op, seconds) for op, seconds in blocks)

    @classmethod
    def fit(cls, networks: Sequence[Sequence[tuple[OpSpec, float]]], measured_s: Sequence[float]) -> NetworkCorrection:
        """Least squares on relative residuals, robust to outliers (soft L1), with weak priors towards no correction.

        networks: for each, its operators with their seconds alone; measured_s: its seconds as a whole.

        Raises:
            LatencyTableError: fewer than two networks.
        """
        if len(measured_s) < 2:
            raise LatencyTableError(
                f"A network correction needs at least two measured networks, got {len(measured_s)}. "
                "Measure more random networks."
            )
        measured = np.asarray(measured_s)
        typical_s = float(np.median(measured))
        kernel_s = float(np.median([sum(s for _, s in net) / sum(kernels(op) for op, _ in net) for net in networks]))

        def correction(x: NDArray[np.float64]) -> NetworkCorrection:
            offset_share, scale, alone_share = map(float, x)
            return cls(offset_share * typical_s, scale, alone_share * kernel_s)

        def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
            predicted = np.array([correction(x).network(net) for net in networks])
            priors = x[0] / OFFSET_SHARE, (x[1] - 1.0) / SCALE_SPREAD, x[2] / ALONE_SHARE
            return np.append((predicted / measured - 1.0) / NOISE, priors)

        found = correction(least_squares(residuals, x0=(0.01, 0.9, 0.1), bounds=(0.0, np.inf), loss="soft_l1").x)
        misses = np.array([found.network(net) for net in networks]) / measured - 1.0
        return replace(found, spread=float(MAD_OF_NORMAL * np.median(np.abs(misses))))


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Operator key -> latency on one machine, and the correction for whole networks."""

    target_name: str
    fingerprint: str
    entries: Mapping[str, Entry]
    correction: NetworkCorrection = field(default_factory=NetworkCorrection)
    format: Literal["netlathe-latency-table/1"] = FORMAT

    def entry(self, op: OpSpec) -> Entry:
        """The latency of one operator as it was measured or predicted: alone.

        Raises:
            MissingLatencyError: the table has none.
        """
        if op.key not in self.entries:
            raise MissingLatencyError(
                f"No latency of {op.key} on {self.target_name}: it is not among the {len(self.entries)} operators of "
                "this table. The table was made for another search space; calibrate this one."
            )
        return self.entries[op.key]

    def block_seconds(self, op: OpSpec) -> float:
        """Seconds of one operator, without what it pays only when it runs alone.

        Raises:
            MissingLatencyError: the table has no entry for it.
        """
        return self.correction.block(op, self.entry(op).seconds)

    def network_seconds(self, ops: Iterable[OpSpec]) -> float:
        """Seconds of the network that runs these operators in order.

        Raises:
            MissingLatencyError: the table has no entry for one of them.
        """
        return self.correction.network((op, self.entry(op).seconds) for op in ops)

    def network(self, ops: Sequence[OpSpec]) -> Prediction:
        """`network_seconds` with its spread: that of networks, and that of operators which were not measured.

        Raises:
            MissingLatencyError: the table has no entry for one of them.
        """
        seconds = self.network_seconds(ops)
        entries = [self.entry(op) for op in ops]
        guessed = [self.correction.scale * entry.spread_s for entry in entries if entry.source == "predicted"]
        return Prediction(seconds, hypot(self.correction.spread * seconds, *guessed))

    def completed(self, ops: Iterable[OpSpec], predict: Callable[[OpSpec], Prediction]) -> LatencyTable:
        """This table with a predicted entry for each of `ops` that it lacks."""
        missing = {op.key: op for op in ops if op.key not in self.entries}
        predicted = {
            key: Entry(prediction.mean_s, prediction.spread_s, "predicted")
            for key, prediction in ((key, predict(op)) for key, op in missing.items())
        }
        return replace(self, entries={**self.entries, **predicted})

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(_ADAPTER.dump_json(self, indent=1))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> LatencyTable:
        """The inverse of `save`.

        Raises:
            LatencyTableError: not a latency table, or one of another version.
        """
        try:
            return _ADAPTER.validate_json(path.read_bytes(), strict=True)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise LatencyTableError(
                f"{path} is not a latency table of format {FORMAT} ({where}: {first['msg']}). "
                "Calibrate again to write one."
            ) from error


_ADAPTER = TypeAdapter(LatencyTable)
