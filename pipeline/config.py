"""RunConfig: everything a run depends on, checked once at the edge. Two runs with equal configs are the same run."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from supernet.settings import AlgorithmName, PenaltyName, RecipeName
from targets.target import DType, Target, file_name
from targets.unit import EMULATED_INSTRUCTIONS
from tvm_latency.opspec import WeightType

BudgetUnit = Literal["x", "ms", "minstr"]
_BUDGET = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*(x|ms|minstr)?", re.IGNORECASE)

ALSO = "also"
"""The part of a result that has those of the further targets, by name."""


class ConfigError(ValueError):
    """An option is unknown or has a value it cannot have."""


@dataclass(frozen=True)
class Budget:
    """A latency to stay within: a share of the baseline's (`x`), milliseconds (`ms`), or where an emulator counts
    millions of instructions (`minstr`).
    """

    value: float
    unit: BudgetUnit

    def __str__(self) -> str:
        """`0.6x`, or `3.5ms`; every digit counts, since equal texts mean the same run."""
        return repr(self.value).removesuffix(".0") + self.unit

    def seconds(self, baseline_s: float, target: Target) -> float:
        """The budget in seconds on the target's clock, for a baseline that takes `baseline_s`.

        Raises:
            ConfigError: the target's figures have another unit.
        """
        if self.unit == "x":
            return self.value * baseline_s
        if (self.unit == "minstr") != (target.unit == EMULATED_INSTRUCTIONS):
            raise ConfigError(
                f"The budget {self} is none for {target.name}, whose figures are {target.unit.name}. Milliseconds are "
                "for targets that are measured, `40minstr` is for those that are emulated, and a share of the "
                "baseline's, as in `0.6x`, for all."
            )
        return self.value / 1e3


def weight_type(weights: WeightType | None, dtype: DType) -> WeightType:
    """How weights are stored that are multiplied as dtype: as that, or in half.

    Raises:
        ConfigError: they would be wider than what they are multiplied as, or matrix units do not take both types.
    """
    if weights == "float32" and dtype == "float16":
        raise ConfigError(
            "--dtype float16 multiplies weights as float16, so --weights float32 would only store them larger. Leave "
            "it out."
        )
    if weights == "float16" and dtype == "tf32":
        raise ConfigError(
            "--dtype tf32 multiplies weights that are stored as float32. Leave --weights out, or compute in float16 "
            "altogether: --dtype float16."
        )
    return weights or ("float16" if dtype == "float16" else "float32")


def parse_budget(text: str) -> Budget:
    """`0.6x` (times the baseline), `3.5ms` or `3.5` (milliseconds), `40minstr` (millions of emulated instructions).

    Raises:
        ConfigError: not a number, or not above zero.
    """
    whole = _BUDGET.fullmatch(text.strip())
    if whole is None:
        raise ConfigError(
            f"The budget {text!r} is not a number. "
            "Write `0.6x` for 0.6 times the baseline, or milliseconds as in `3.5ms`, or for a target that is emulated "
            "`40minstr` for 40 million instructions."
        )
    value = float(whole[1])
    if not 0 < value < math.inf:
        raise ConfigError(f"The budget must be above zero, got {text!r}. Write for example `0.6x` or `3.5ms`.")
    return Budget(value, cast(BudgetUnit, (whole[2] or "ms").lower()))


def parse_shares(text: str) -> tuple[float, ...]:
    """`2,1`.

    Raises:
        ConfigError: something between the commas is not a number.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"The shares {text!r} are not numbers with commas between them, as in `2,1`.") from error


# What the name of a run says of an option. Those that are missing here are always in it.
_WORDS = {
    "space": "{}",
    "resolution": "r{}",
    "width": "w{}",
    "recipe": "{}",
    "algorithm": "{}",
    "penalty": "{}",
    "max_params": "p{}",
    "max_memory_kb": "m{}kb",
    "threads": "t{}",
    "search_epochs": "se{}",
    "train_epochs": "te{}",
    "ema": "ema{}",
    "weights": "{}",
    "dtype": "in-{}",
    "shares": "shares{}",
}


def _file_name(text: str) -> str:
    """The last part of a path, of characters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(text).name or "data")


def _short(value: Any) -> str:
    """`0.5`, `1000000`, `my_space`, `2_1`."""
    if isinstance(value, tuple):
        return "_".join(map(_short, value))
    return f"{value:.15g}" if isinstance(value, float) else _file_name(str(value)).removesuffix(".toml")


def _budget_text(text: str) -> str:
    return str(parse_budget(text))


class RunConfig(BaseModel):
    """The options of `netlathe run`. Where the files go is not among them: a run folder can be moved."""

    # also: further targets. shares: of the budgets of all of them the mean weighted so is kept, instead of each.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    target: str = "x86"
    data: str = Field(default="digits", min_length=1)
    budget: Annotated[str, AfterValidator(_budget_text)] = "0.6x"
    space: str | None = None
    resolution: int | None = Field(default=None, ge=1, le=4096)
    width: float = Field(default=1.0, ge=0.1, le=4.0)
    recipe: RecipeName = "short"
    algorithm: AlgorithmName = "gradient"
    penalty: PenaltyName = "target"
    max_params: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_memory_kb: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    seed: int = Field(default=0, ge=0, lt=2**31)
    threads: int = Field(default=1, ge=1, le=1024)
    search_epochs: int | None = Field(default=None, ge=1)
    train_epochs: int | None = Field(default=None, ge=1)
    ema: float = Field(default=0.0, ge=0, lt=1)
    weights: WeightType = "float32"
    dtype: DType = "float32"
    also: tuple[str, ...] = Field(default=(), strict=False)
    shares: tuple[float, ...] = Field(default=(), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _weights_as_multiplied(cls, options: dict[str, Any]) -> dict[str, Any]:
        dtype = options.get("dtype", "float32")
        return {**options, "weights": weight_type(options.get("weights"), dtype)}

    @model_validator(mode="after")
    def _targets_fit_together(self) -> RunConfig:
        targets = self.targets
        if len(set(targets)) < len(targets):
            raise ConfigError(f"A target was given twice: {', '.join(targets)}.")
        if self.shares and (len(self.shares) != len(targets) or not all(0 < s < math.inf for s in self.shares)):
            raise ConfigError(
                f"--shares needs a positive number for each of the targets ({', '.join(targets)}), got "
                f"{', '.join(map(repr, self.shares))}. Write for example `--shares 2,1` for two."
            )
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """The first target, and the others that the network is for."""
        return (self.target, *self.also)

    @property
    def parsed_budget(self) -> Budget:
        """The budget as a number with its meaning."""
        return parse_budget(self.budget)

    @property
    def name(self) -> str:
        """The one printable key, also the default folder: `digits-x86-0.6x-s0`, `digits-x86-0.6x-s0-w0.5-float16`."""
        return "-".join([*self._subject, self.budget, *self._rest])

    @property
    def family(self) -> str:
        """The name without the budget: what the runs of a sweep have in common."""
        return "-".join([*self._subject, *self._rest])

    @property
    def _subject(self) -> list[str]:
        return [_file_name(self.data), "_".join(map(file_name, self.targets))]

    @property
    def _rest(self) -> list[str]:
        """The seed, and every other option that is not at its default, in a word."""
        changed = self.changed()
        return [
            f"s{self.seed}",
            *(word.format(_short(changed[name])) for name, word in _WORDS.items() if name in changed),
        ]

    def changed(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        return {name: value for name, value in self if value != type(self).model_fields[name].default}

    def summary(self) -> str:
        """One line for people: `seed=3, threads=2`, or that everything is as by default."""
        return ", ".join(f"{name}={value}" for name, value in self.changed().items()) or "all options at their defaults"


def make_config(**options: Any) -> RunConfig:
    """A RunConfig from options by name.

    Raises:
        ConfigError: an unknown option (the message has close matches) or an impossible value.
    """
    try:
        return RunConfig(**options)
    except ValidationError as error:
        raise ConfigError(" ".join(_explain(dict(problem)) for problem in error.errors())) from error


def _explain(problem: dict[str, Any]) -> str:
    """One problem that Pydantic found, as a sentence."""
    name = ".".join(map(str, problem["loc"]))
    if problem["type"] == "extra_forbidden":
        close = get_close_matches(name, RunConfig.model_fields, n=2, cutoff=0.5)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        return f"Unknown option {name!r}.{hint} Known: {', '.join(RunConfig.model_fields)}."
    cause = problem.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return str(cause)
    return f"Option {name!r} cannot be {problem['input']!r}: {problem['msg'][0].lower()}{problem['msg'][1:]}."
