"""LatencyTable: the seconds of every operator of a space on one target, and of the networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from tvm_latency.opspec import OpSpec
from tvm_latency.overflow import NonNegative, Overflow

FORMAT: Literal["netlathe-latency-table/4"] = "netlathe-latency-table/4"

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class LatencyTableError(ValueError):
    """The file is not a latency table."""


class MissingLatencyError(LookupError):
    """A table was asked for an operator that it has no latency for."""

    def __str__(self) -> str:
        """The sentence itself: LookupError would be shown as it is, KeyError in quotes."""
        return str(self.args[0])


@dataclass(frozen=True)
class Prediction:
    """Expected seconds of a network and their standard deviation."""

    mean_s: float
    spread_s: float


@dataclass(frozen=True)
class Entry:
    """The latency of an operator: the median where measured, the expectation where predicted.

    seconds, spread_s: run alone, and their standard deviation; network_s: what it adds to a network. A table that was
    transferred or imported only knows the latter, and has it for both.
    """

    seconds: Positive
    spread_s: NonNegative
    source: Literal["measured", "predicted"]
    network_s: Positive


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Operator key -> latency on one machine.

    spread: how far networks are from the sum of their operators, a standard deviation as a share of their time.
    overflow: what networks take beyond that sum that have more weights than any of the space.
    """

    target_name: str
    fingerprint: str
    entries: Mapping[str, Entry]
    spread: NonNegative = 0.0
    overflow: Overflow = field(default_factory=Overflow)
    format: Literal["netlathe-latency-table/4"] = FORMAT

    def entry(self, op: OpSpec) -> Entry:
        """The latency of one operator.

        Raises:
            MissingLatencyError: the table has none.
        """
        if op.key not in self.entries:
            raise MissingLatencyError(
                f"No latency of {op.key} on {self.target_name}: it is not among the {len(self.entries)} operators of "
                "this table. The table was made for another search space; calibrate this one."
            )
        return self.entries[op.key]

    def network_seconds(self, ops: Sequence[OpSpec]) -> float:
        """Seconds of the network that runs these operators in order.

        Raises:
            MissingLatencyError: the table has no entry for one of them.
        """
        sum_s = self._sum_s(ops)
        return sum_s + self.overflow.seconds(ops, sum_s)

    def overflow_seconds(self, ops: Sequence[OpSpec]) -> float:
        """The part of `network_seconds` that is not its operators'."""
        return self.overflow.seconds(ops, self._sum_s(ops))

    def _sum_s(self, ops: Sequence[OpSpec]) -> float:
        return sum(self.entry(op).network_s for op in ops)

    def network(self, ops: Sequence[OpSpec]) -> Prediction:
        """`network_seconds` with its spread: that of networks, of an overflow, and of operators that were not measured.

        Raises:
            MissingLatencyError: the table has no entry for one of them.
        """
        seconds = self.network_seconds(ops)
        guessed = [entry for entry in map(self.entry, ops) if entry.source == "predicted"]
        spreads = (entry.spread_s * entry.network_s / entry.seconds for entry in guessed)
        overflow_s = self.overflow.spread_s(ops, self._sum_s(ops))
        return Prediction(seconds, hypot(self.spread * seconds, overflow_s, *spreads))

    def completed(self, ops: Iterable[OpSpec], predict: Callable[[OpSpec], Entry]) -> LatencyTable:
        """This table with a predicted entry for each of `ops` that it lacks."""
        missing = {op.key: op for op in ops if op.key not in self.entries}
        return replace(self, entries={**self.entries, **{key: predict(op) for key, op in missing.items()}})

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
