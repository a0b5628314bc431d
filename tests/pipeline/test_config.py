from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Budget, ConfigError, RunConfig, make_config, parse_budget
from targets.registry import get_target
from targets.unit import INSTRUCTION_S


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("0.6x", Budget(0.6, "x")),
        (" 1X ", Budget(1.0, "x")),
        ("3.5ms", Budget(3.5, "ms")),
        ("3.5", Budget(3.5, "ms")),
        (".5 ms", Budget(0.5, "ms")),
        ("1e-1x", Budget(0.1, "x")),
        ("40minstr", Budget(40.0, "minstr")),
        ("2.5 Minstr", Budget(2.5, "minstr")),
    ],
)
def test_budget_forms(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@given(st.floats(1e-3, 1e3, allow_nan=False), st.sampled_from(["x", "ms", ""]))
def test_budget_text_is_stable(value: float, unit: str) -> None:
    budget = parse_budget(f"{value!r}{unit}")
    assert parse_budget(str(budget)) == budget
    assert budget.value == value, "no digit is lost"


@pytest.mark.parametrize("text", ["", "fast", "x", "ms", "0.6 s", "nan", "1,5ms", "0x1f"])
def test_budget_that_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a number. Write `0.6x`"):
        parse_budget(text)


@pytest.mark.parametrize("text", ["0", "-1ms", "-0.5x", "0x", "1e999ms"])
def test_budget_not_above_zero(text: str) -> None:
    with pytest.raises(ConfigError, match="must be above zero"):
        parse_budget(text)


def test_relative_budget_takes_the_baseline() -> None:
    x86 = get_target("x86")
    assert parse_budget("0.5x").seconds(0.004, x86) == 0.002
    assert parse_budget("3ms").seconds(0.004, x86) == 0.003


def test_a_budget_has_the_unit_of_the_target() -> None:
    board, phone = get_target("raspberry-pi-4"), get_target("android-arm64@ssh:phone")
    assert parse_budget("0.5x").seconds(0.04, board) == 0.02
    assert parse_budget("40minstr").seconds(1.0, board) == pytest.approx(40e6 * INSTRUCTION_S)
    assert parse_budget("3ms").seconds(1.0, phone) == 0.003
    with pytest.raises(ConfigError, match=r"budget 3ms is none for raspberry-pi-4, .* `40minstr` is for those"):
        parse_budget("3ms").seconds(1.0, board)
    with pytest.raises(ConfigError, match=r"budget 3minstr is none for android-arm64@ssh:phone, whose figures are ms"):
        parse_budget("3minstr").seconds(1.0, phone)


def test_config_is_canonical_and_says_what_differs() -> None:
    assert make_config(budget="0.60x") == RunConfig()
    assert make_config(budget="1.23456789ms").budget == "1.23456789ms"
    assert make_config(budget="1.0x").budget == "1x"
    assert RunConfig().summary() == "all options at their defaults"
    assert make_config(seed=3, budget="2").summary() == "budget=2ms, seed=3"


def test_config_name_is_a_folder_name() -> None:
    assert make_config().name == "digits-x86-0.6x-s0"
    assert make_config(data="some/path/my photos").name == "my_photos-x86-0.6x-s0"
    assert make_config(weights="float16").name == "digits-x86-0.6x-s0-float16"


@pytest.mark.parametrize(
    ("options", "end"),
    [
        ({"space": "cifar"}, "cifar"),
        ({"space": "my spaces/small one.toml"}, "small_one"),
        ({"resolution": 48, "width": 0.5}, "r48-w0.5"),
        ({"recipe": "paper", "algorithm": "two-path", "penalty": "linear"}, "paper-two-path-linear"),
        ({"max_params": 1.5e6, "max_memory_kb": 64.5}, "p1500000-m64.5kb"),
        ({"threads": 2, "search_epochs": 4, "train_epochs": 5}, "t2-se4-te5"),
        ({"shares": (2.0,)}, "shares2"),
    ],
)
def test_the_name_tells_what_differs(options: dict[str, Any], end: str) -> None:
    config = make_config(**options)
    assert config.name == f"digits-x86-0.6x-s0-{end}"
    assert config.family == f"digits-x86-s0-{end}"
    assert len(re.sub(r"[A-Za-z0-9._-]", "", config.name)) == 0


def test_every_option_is_in_the_name() -> None:
    """Two runs that differ in an option share no folder."""
    others = {
        "target": "x86-64-v3",
        "data": "photos",
        "budget": "0.7x",
        "seed": 1,
        "space": "cifar",
        "resolution": 48,
        "width": 0.5,
        "recipe": "paper",
        "algorithm": "random",
        "penalty": "power",
        "max_params": 1e5,
        "max_memory_kb": 64.0,
        "threads": 2,
        "search_epochs": 3,
        "train_epochs": 3,
        "ema": 0.99,
        "weights": "float16",
        "dtype": "float16",
        "also": ("x86-64-v3",),
        "shares": (1.0,),
    }
    assert set(others) == set(RunConfig.model_fields)
    names = {make_config(**{option: value}).name for option, value in others.items()}
    assert len(names | {RunConfig().name}) == len(others) + 1


def test_weights_are_stored_as_what_they_are_multiplied_as() -> None:
    assert make_config(dtype="float16").weights == "float16"
    assert make_config(dtype="float16").name == "digits-x86-0.6x-s0-float16-in-float16"
    with pytest.raises(ConfigError, match="--weights float32 would only store them larger"):
        make_config(dtype="float16", weights="float32")
    assert make_config(dtype="tf32").weights == "float32"
    with pytest.raises(ConfigError, match="tf32 multiplies weights that are stored as float32"):
        make_config(dtype="tf32", weights="float16")


def test_a_family_leaves_the_budget_out_and_nothing_else() -> None:
    one, other = (make_config(data="all-0.6x", budget=budget) for budget in ("0.6x", "3ms"))
    assert one.family == other.family == "all-0.6x-x86-s0"


def test_a_whole_number_is_a_number() -> None:
    config = make_config(width=1, max_params=1000)
    assert (config.width, config.max_params) == (1.0, 1000.0)
    assert config.summary() == "max_params=1000.0"


def test_unknown_option_has_close_matches() -> None:
    with pytest.raises(ConfigError, match=r"Unknown option 'buget'. Did you mean budget?"):
        make_config(buget="0.6x")
    with pytest.raises(ConfigError, match=r"Unknown option 'zzz'. Known: target, data"):
        make_config(zzz=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "Option 'seed' cannot be -1: input should be greater than or equal to 0"),
        ({"seed": "1"}, "Option 'seed' cannot be '1': input should be a valid integer"),
        ({"threads": 0}, "Option 'threads' cannot be 0"),
        ({"train_epochs": 0}, "Option 'train_epochs' cannot be 0"),
        ({"budget": "soon"}, "The budget 'soon' is not a number"),
        ({"data": ""}, "Option 'data' cannot be ''"),
        ({"resolution": 0}, "Option 'resolution' cannot be 0: input should be greater than or equal to 1"),
        ({"width": 0.0}, "Option 'width' cannot be 0.0: input should be greater than or equal to 0.1"),
        ({"width": float("nan")}, "Option 'width' cannot be nan"),
        ({"recipe": "long"}, "Option 'recipe' cannot be 'long': input should be 'short' or 'paper'"),
        ({"algorithm": "grid"}, "Option 'algorithm' cannot be 'grid': input should be 'gradient', 'two-path', 'rein"),
        ({"penalty": "none"}, "Option 'penalty' cannot be 'none': input should be 'target', 'linear' or 'power'"),
        ({"max_params": 0.0}, "Option 'max_params' cannot be 0.0: input should be greater than 0"),
        ({"max_params": float("inf")}, "Option 'max_params' cannot be inf: input should be a finite number"),
        ({"max_memory_kb": float("inf")}, "Option 'max_memory_kb' cannot be inf: input should be a finite number"),
        ({"ema": 1.0}, "Option 'ema' cannot be 1.0: input should be less than 1"),
        ({"weights": "int8"}, "Option 'weights' cannot be 'int8': input should be 'float32' or 'float16'"),
    ],
)
def test_impossible_values(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config(**options)
