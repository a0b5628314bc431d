"""Functions that no kind covers, scheduled by TVM's MetaSchedule in a process that may crash or hang without harm."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

import tvm

from targets.child import Child, ChildEnded
from targets.host import available_cpus
from targets.target import Target
from tvm_latency.lower import Lowered

# (stage, done, total, figures)
Progress = Callable[[str, int, int, dict[str, float]], None]

CHILD = ("-m", "tvm_latency.fallback_child")
# Loading TVM and finding the space of schedules; then building and timing one of them, naive loops of a large
# convolution among them.
START_S, TRIAL_S = 120.0, 10.0


@dataclass(frozen=True, kw_only=True)
class FallbackSettings:
    """How functions are tuned.

    trials: schedules that are built and timed for each function.
    deadline_s: for one function, all told; by default what its trials should take at the most.
    child: the process, as arguments of Python.
    """

    trials: int
    deadline_s: float | None = None
    child: Sequence[str] = CHILD

    @property
    def seconds(self) -> float:
        """The deadline of one function."""
        return START_S + TRIAL_S * self.trials if self.deadline_s is None else self.deadline_s


def tune_fallbacks(
    lowered: Lowered,
    target: Target,
    settings: FallbackSettings,
    progress: Progress,
    say: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
) -> Lowered:
    """The module with each fallback replaced by the fastest schedule found, where that is faster and right.

    Whatever goes wrong with a function leaves its default loops as they are, and a sentence that names it is said.
    """
    module = lowered.module
    for name in lowered.fallbacks:
        variable, start = module.get_global_var(name), monotonic()
        try:
            func, speedup = _scheduled(name, module[variable], target, settings, progress, environ)
        except ChildEnded as end:
            say(
                f"{name} keeps TVM's default loops: the process that tuned it {end}. The network is right, only slower "
                "than it could be; compile again to try again, or with fewer trials."
            )
            continue
        module = _with_function(module, variable, func)
        say(f"{name}: {speedup:.1f} times as fast as TVM's default loops, found in {monotonic() - start:.0f} s.")
    return replace(lowered, module=module)


def _scheduled(
    name: str,
    func: Any,
    target: Target,
    settings: FallbackSettings,
    progress: Progress,
    environ: Mapping[str, str],
) -> tuple[Any, float]:
    """What the child makes of a function, and how many times as fast it is."""
    environ = {**environ, "TVM_NUM_THREADS": str(target.threads), "TVM_BIND_THREADS": "0"}
    child = Child(settings.child, environ)
    deadline = monotonic() + settings.seconds
    try:
        child.send(
            {
                "module": tvm.ir.save_json(tvm.IRModule({"main": func.with_attr("global_symbol", "main")})),
                "target": target.tvm_attributes(),
                "cpus": available_cpus()[-target.threads :],
                "trials": settings.trials,
            }
        )
        while "module" not in (reply := child.receive(max(0.0, deadline - monotonic()))):
            if isinstance(reply.get("trials"), int):
                progress(f"tune {name}", reply["trials"], settings.trials, {})
        return _checked(reply, func)
    except ChildEnded as end:
        if monotonic() >= deadline:
            raise ChildEnded(f"took longer than {settings.seconds:g} s") from end
        raise
    finally:
        child.close()


def _checked(reply: Mapping[str, Any], func: Any) -> tuple[Any, float]:
    """The function of a reply, if it can stand in for `func`."""
    try:
        answer = tvm.ir.load_json(reply["module"])["main"]
        speedup = reply["default_s"] / reply["tuned_s"]
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ChildEnded(f"answered what cannot be read ({type(error).__name__})") from error
    if not isinstance(answer, tvm.tirx.PrimFunc) or _parameters(answer) != _parameters(func):
        raise ChildEnded("answered another function")
    symbol = func.attrs.get("global_symbol")
    answer = answer.without_attr("global_symbol") if symbol is None else answer.with_attr("global_symbol", symbol)
    return answer.with_attr("tirx.is_scheduled", True), speedup


def _parameters(func: Any) -> list[str]:
    return [str(parameter.ty) for parameter in func.params]


def _with_function(module: Any, variable: Any, func: Any) -> Any:
    module = module.clone()
    module.update_func(variable, func)
    return module
