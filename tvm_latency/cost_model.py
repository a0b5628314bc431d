"""CostModel: seconds of an operator that was never measured, with a spread.

A first estimate adds up work (`features.TERMS`) with fitted seconds per unit; it is right about the order of
magnitude everywhere, also for channel counts outside the calibrated space. XGBoost then learns the logarithm of what
the estimate misses, as an ensemble whose members each leave out one fold of the measurements.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import exp, hypot
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xgboost
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.optimize import least_squares
from sklearn.model_selection import KFold

from targets.target import Target
from tvm_latency.correction import NetworkCorrection
from tvm_latency.features import FEATURES, TERMS, features, terms
from tvm_latency.latency_table import Entry
from tvm_latency.opspec import OpSpec

FORMAT: Literal["netlathe-cost-model/3"] = "netlathe-cost-model/3"
FOLDS = 8
MIN_OPS = 2 * FOLDS

# A nominal core of 3 GHz with one vector multiply-add a cycle, 10 GB/s and 1 us to call a kernel: where the fit starts,
# and what stays of a term that no measured operator has.
_NOMINAL_SECONDS = {"issues": 1 / 3e9, "bytes": 1e-10, "kernels": 1e-6}
_PRIOR_LOG_SPREAD = 2.0  # a factor of seven either way
_ESTIMATE_LOG_SPREAD = 0.1  # what the estimate may miss before a row counts as an outlier

# Few rows (70 to 150): shallow trees, small steps, and half of the features at each split.
_BOOSTER = {
    "objective": "reg:squarederror",
    "base_score": 0.0,
    "tree_method": "exact",
    "max_depth": 3,
    "eta": 0.05,
    "subsample": 0.8,
    "colsample_bylevel": 0.5,
    "min_child_weight": 2,
    "lambda": 1.0,
    "nthread": 1,
}
_ROUNDS = 150

# An operator is like those that were measured if none of its features is further outside than this share of the range.
_SLACK = 0.02

Array = NDArray[np.float64]
# The operators of a network, with the seconds of each alone.
Alone = Sequence[tuple[OpSpec, float]]


class CostModelError(ValueError):
    """Too few measurements to fit, or a file that is no cost model for this version and machine."""


@dataclass(frozen=True)
class Explanation:
    """terms_s: seconds for each kind of work, which the first estimate adds up; factors: by which each feature then
    multiplies them (Shapley values of the boosters, out of logarithms).
    """

    terms_s: Mapping[str, float]
    factors: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class _Saved:
    """The file: everything readable, the boosters in XGBoost's own JSON."""

    target_name: str
    fingerprint: str
    features: tuple[str, ...]
    seconds_per_unit: dict[str, list[float]]
    log_spread: float
    held_out_s: dict[str, float]
    ranges: dict[str, tuple[float, float]]
    correction: NetworkCorrection
    boosters: tuple[dict[str, Any], ...]
    format: Literal["netlathe-cost-model/3"] = FORMAT


_SAVED = TypeAdapter(_Saved)


@dataclass(frozen=True, kw_only=True, eq=False)
class CostModel:
    """Predicts the seconds of one operator on one target.

    A member is a linear estimate (seconds for each unit of work, one row of `seconds_per_unit` [members, terms]) and a
    booster of what remains; each was fitted without one fold. The prediction is their mean, of logarithms.

    held_out_s: for each fitted operator, the prediction of the member that had not seen it.
    ranges: the least and the greatest value that each feature had among them.
    correction: from operators alone to networks.
    """

    target: Target
    seconds_per_unit: Array
    boosters: tuple[xgboost.Booster, ...]
    log_spread: float
    held_out_s: Mapping[str, float]
    ranges: Mapping[str, tuple[float, float]]
    correction: NetworkCorrection = field(default_factory=NetworkCorrection)

    @classmethod
    def fit(cls, ops: Sequence[OpSpec], seconds: Sequence[float], target: Target, seed: int = 0) -> CostModel:
        """Fit to distinct operators and their measured seconds; the same arguments give the same model.

        Raises:
            CostModelError: fewer than 16 operators.
        """
        if len(ops) < MIN_OPS:
            raise CostModelError(
                f"A cost model needs at least {MIN_OPS} measured operators, got {len(ops)}. "
                "Calibrate a larger space, or look at the failures of this one."
            )
        ops, seconds = zip(*sorted(zip(ops, seconds), key=lambda pair: pair[0].key))
        log_s = np.log(seconds)
        work = np.array([terms(op, target) for op in ops])
        inputs = np.array([features(op, target) for op in ops])
        held_out, rates, boosters = np.empty(len(ops)), [], []
        for fit, rest in KFold(FOLDS, shuffle=True, random_state=seed).split(inputs):
            rates.append(_fit_seconds_per_unit(work[fit], log_s[fit]))
            estimate = np.log(work @ rates[-1])
            booster = xgboost.train(
                {**_BOOSTER, "seed": seed}, _matrix(inputs[fit], log_s[fit] - estimate[fit]), num_boost_round=_ROUNDS
            )
            held_out[rest] = estimate[rest] + booster.predict(_matrix(inputs[rest]))
            boosters.append(booster)
        return cls(
            target=target,
            seconds_per_unit=np.array(rates),
            boosters=tuple(boosters),
            log_spread=float(np.sqrt(np.mean((held_out - log_s) ** 2))),
            held_out_s={op.key: float(s) for op, s in zip(ops, np.exp(held_out))},
            ranges=dict(zip(FEATURES, zip(inputs.min(axis=0).tolist(), inputs.max(axis=0).tolist()))),
        )

    def predict(self, op: OpSpec) -> Entry:
        """The latency of one operator; its spread joins held-out error and disagreement of the members."""
        inputs = _matrix(np.array([features(op, self.target)]))
        corrections = np.array([float(booster.predict(inputs)[0]) for booster in self.boosters])
        members = np.log(self.seconds_per_unit @ terms(op, self.target)) + corrections
        mean_s = exp(float(members.mean()))
        spread_s = mean_s * hypot(self.log_spread, float(members.std()))
        return Entry(mean_s, spread_s, "predicted", self.in_network(op, mean_s))

    def in_network(self, op: OpSpec, seconds: float) -> float:
        """What an operator that takes so long alone adds to a network."""
        factor = float(self._shares(op) @ self.correction.array(tuple(TERMS)))
        return seconds * factor * self.correction.own.get(op.key, 1.0)

    def corrected(self, networks: Sequence[Alone], measured_s: Sequence[float]) -> CostModel:
        """This model with a correction that is fitted to whole networks.

        networks: for each, its operators with their seconds alone; measured_s: its seconds as a whole.

        Raises:
            CorrectionError: fewer than two networks.
        """
        ops = {op.key: op for net in networks for op, _ in net}
        columns, alone_s = {key: column for column, key in enumerate(ops)}, np.zeros((len(networks), len(ops)))
        for row, net in enumerate(networks):
            for op, seconds in net:
                alone_s[row, columns[op.key]] += seconds
        shares = {key: self._shares(op) for key, op in ops.items()}
        return replace(self, correction=NetworkCorrection.fit(tuple(TERMS), shares, alone_s, measured_s))

    def network_seconds(self, ops: Sequence[OpSpec]) -> float:
        """Predicted seconds of the network that runs these operators, none of them taken from measurements."""
        return sum(self.predict(op).network_s for op in ops)

    def _shares(self, op: OpSpec) -> Array:
        """Of an operator's time alone, by kind of work; they add up to 1."""
        seconds = self.seconds_per_unit.mean(axis=0) * terms(op, self.target)
        return np.asarray(seconds / seconds.sum())

    def outside(self, op: OpSpec) -> dict[str, str]:
        """Features in which the operator is unlike all that was measured: `13.2, measured were 2 to 12.3`."""
        values = zip(FEATURES, features(op, self.target))
        return {
            name: f"{value:.3g}, measured were {low:.3g} to {high:.3g}"
            for name, value in values
            for low, high in [self.ranges[name]]
            if not low - _SLACK * (high - low) <= value <= high + _SLACK * (high - low)
        }

    def explain(self, op: OpSpec) -> Explanation:
        """What makes up the prediction of an operator in a network."""
        factors = self.correction.array(tuple(TERMS)) * self.correction.own.get(op.key, 1.0)
        seconds = self.seconds_per_unit.mean(axis=0) * terms(op, self.target) * factors
        inputs = _matrix(np.array([features(op, self.target)]))
        shares = np.mean([booster.predict(inputs, pred_contribs=True)[0] for booster in self.boosters], axis=0)
        return Explanation(
            terms_s=dict(zip(TERMS, seconds.tolist())), factors=dict(zip(FEATURES, np.exp(shares[:-1]).tolist()))
        )

    def save(self, path: Path) -> None:
        """Write as JSON, atomically."""
        saved = _Saved(
            target_name=self.target.name,
            fingerprint=self.target.fingerprint,
            features=FEATURES,
            seconds_per_unit=dict(zip(TERMS, self.seconds_per_unit.T.tolist())),
            log_spread=self.log_spread,
            held_out_s=dict(self.held_out_s),
            ranges=dict(self.ranges),
            correction=self.correction,
            boosters=tuple(_JSON.validate_json(bytes(booster.save_raw("json"))) for booster in self.boosters),
        )
        temporary = path.with_name(path.name + ".part")
        temporary.write_bytes(_SAVED.dump_json(saved))
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path, target: Target) -> CostModel:
        """The inverse of `save`.

        Raises:
            CostModelError: not a cost model, one of another version or with other features, or of another machine.
        """
        again = "Run `netlathe calibrate` to make one."
        try:
            saved = _SAVED.validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise CostModelError(
                f"{path} is not a cost model of format {FORMAT} ({where}: {first['msg']}). {again}"
            ) from error
        if saved.features != FEATURES or tuple(saved.seconds_per_unit) != tuple(TERMS):
            other = sorted(set(saved.features) ^ set(FEATURES) | set(saved.seconds_per_unit) ^ set(TERMS))
            raise CostModelError(
                f"{path} was fitted on other features than this version computes ({', '.join(other)}). {again}"
            )
        if saved.fingerprint != target.fingerprint:
            raise CostModelError(f"{path} was fitted on {saved.fingerprint!r}, not on {target.fingerprint!r}. {again}")
        return cls(
            target=target,
            seconds_per_unit=np.ascontiguousarray(np.array(list(saved.seconds_per_unit.values())).T),
            boosters=tuple(_booster(path, content) for content in saved.boosters),
            log_spread=saved.log_spread,
            held_out_s=saved.held_out_s,
            ranges=saved.ranges,
            correction=saved.correction,
        )


_JSON: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, Any])


def _matrix(inputs: Array, labels: Array | None = None) -> xgboost.DMatrix:
    return xgboost.DMatrix(inputs, label=labels, feature_names=list(FEATURES), nthread=1)


def _booster(path: Path, content: dict[str, Any]) -> xgboost.Booster:
    """A booster from its JSON.

    Raises:
        CostModelError: XGBoost does not accept it.
    """
    booster = xgboost.Booster({"nthread": 1})
    try:
        booster.load_model(bytearray(_JSON.dump_json(content)))
    except xgboost.core.XGBoostError as error:
        raise CostModelError(
            f"XGBoost cannot read a booster in {path}: the file is damaged, or of a newer XGBoost."
        ) from error
    return booster


def _fit_seconds_per_unit(work: Array, log_s: Array) -> Array:
    """Seconds per unit of each term, all positive: robust least squares of the logarithms, with a weak prior.

    work: [ops, terms]; log_s: [ops].
    """
    prior = np.log([_NOMINAL_SECONDS[name.rpartition("_")[2]] for name in TERMS])

    def residuals(log_units: Array) -> Array:
        misses = (np.log(work @ np.exp(log_units)) - log_s) / _ESTIMATE_LOG_SPREAD
        return np.concatenate([misses, (log_units - prior) / _PRIOR_LOG_SPREAD])

    return np.asarray(np.exp(least_squares(residuals, x0=prior, loss="soft_l1").x))
