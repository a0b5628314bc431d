"""LatencyTable: the seconds of every operator of a space on one target, and of the networks made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from scipy.optimize import least_squares

from tvm_latency.opspec import OpSpec

FORMAT: Literal["netlathe-latency-table/1"] = "netlathe-latency-table/1"

# How far a network's relative residual counts as noise; beyond it an outlier pulls linearly, not squared.
NOISE = 0.02
# Random networks take nearly the same time, so offset and scale are hard to tell apart: without evidence to the
# contrary the offset is within about this share of a network's time.
OFFSET_SHARE = 0.1

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
    """The latency of one operator: its median where it was measured, its expectation where it was predicted."""

    seconds: Positive
    spread_s: NonNegative
    source: Literal["measured", "predicted"]


@dataclass(frozen=True)
class NetworkCorrection:
    """From the sum of cold blocks to a network: `offset_s + scale * sum`.

    A block measured alone finds its input cold and pays the timer; inside a network it does not. Linear, so that an
    expectation over paths stays linear in their probabilities; neither term is negative, so no network takes 0 s.
    """

    offset_s: NonNegative = 0.0
    scale: NonNegative = 1.0

    def __call__(self, blocks_s: float) -> float:
        """Seconds of a network whose blocks sum to `blocks_s`."""
        return self.offset_s + self.scale * blocks_s

    @classmethod
    def fit(cls, blocks_s: Sequence[float], networks_s: Sequence[float]) -> NetworkCorrection:
        """Least squares on relative residuals, robust to outliers (soft L1), with a weak prior on the offset.

        Raises:
            LatencyTableError: fewer than two networks.
        """
        if len(networks_s) < 2:
            raise LatencyTableError(
                f"A network correction needs at least two measured networks, got {len(networks_s)}. "
                "Measure more random networks."
            )
        blocks, networks = np.asarray(blocks_s), np.asarray(networks_s)
        typical = float(np.median(networks))

        def residuals(x: np.ndarray) -> np.ndarray:
            offset_share, scale = x
            errors = (offset_share * typical + scale * blocks) / networks - 1.0
            return np.append(errors / NOISE, offset_share / OFFSET_SHARE)

        fit = least_squares(residuals, x0=(0.01, 1.0), bounds=(0.0, np.inf), loss="soft_l1", xtol=1e-12)
        return cls(offset_s=float(fit.x[0]) * typical, scale=float(fit.x[1]))


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Operator key -> latency on one machine, and the correction for whole networks."""

    target_name: str
    fingerprint: str
    entries: Mapping[str, Entry]
    correction: NetworkCorrection = field(default_factory=NetworkCorrection)
    format: Literal["netlathe-latency-table/1"] = FORMAT

    def block_seconds(self, op: OpSpec) -> float:
        """Seconds of one operator alone, cold.

        Raises:
            MissingLatencyError: the table has no entry for it.
        """
        if op.key not in self.entries:
            raise MissingLatencyError(
                f"No latency of {op.key} on {self.target_name}: it is not among the {len(self.entries)} operators of "
                "this table. The table was made for another search space; calibrate this one."
            )
        return self.entries[op.key].seconds

    def network_seconds(self, ops: Iterable[OpSpec]) -> float:
        """Seconds of the network that runs these operators in order.

        Raises:
            MissingLatencyError: the table has no entry for one of them.
        """
        return self.correction(sum(map(self.block_seconds, ops)))

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
