"""A process of its own, bound to as many cores as it has threads, for what is measured through TVM's functions."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

from targets.host import available_cpus

P = ParamSpec("P")
T = TypeVar("T")


def pinned(threads: int, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What `function` answers in a new process; the function, its arguments and its answer must be picklable."""
    with ProcessPoolExecutor(1, get_context("spawn"), _pin, (threads,)) as pool:
        return pool.submit(function, *args, **kwargs).result()


def _pin(threads: int) -> None:
    # As in `pipeline.bench`: the last cores, because the first serve most interrupts, and no binding of TVM's own.
    os.environ |= {"TVM_NUM_THREADS": str(threads), "TVM_BIND_THREADS": "0"}
    os.sched_setaffinity(0, available_cpus()[-threads:])
