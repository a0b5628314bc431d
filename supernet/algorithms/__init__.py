"""The algorithms of a search by name; each is a class that takes constraints, settings and the number of its steps."""

from __future__ import annotations

from collections.abc import Callable

from supernet.algorithms.evaluated import Evolution, RandomSearch
from supernet.algorithms.gradient import Gradient, TwoPath
from supernet.algorithms.interface import Algorithm
from supernet.algorithms.reinforce import Reinforce

ALGORITHMS: dict[str, Callable[..., Algorithm]] = {
    "gradient": Gradient,
    "two-path": TwoPath,
    "reinforce": Reinforce,
    "evolution": Evolution,
    "random": RandomSearch,
}
