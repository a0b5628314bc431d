"""The machine that a command is for."""

from __future__ import annotations

from targets.registry import get_target
from targets.target import DType, Target


def find_machine(target: str, threads: int, dtype: DType) -> Target:
    """The target of that name, for so many threads and arithmetic in dtype.

    Raises:
        TargetError: there is no such target, or it does not have as many cores or does not compute in the type.
    """
    return get_target(target).with_threads(threads).with_dtype(dtype)
