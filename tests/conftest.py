"""Options of the whole suite."""

import os
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from platformdirs import user_cache_path

# Hypothesis tries the same examples on every run, unless `--hypothesis-profile=thorough` asks for more, and others.
# How long one takes is the machine's affair.
settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("thorough", max_examples=1000, deadline=None)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files that tests compare with")


def pytest_configure(config: pytest.Config) -> None:
    """Let every process of one run of the suite share the kernels that were compiled, and no other run."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    folder = TemporaryDirectory(prefix="netlathe-tests-")
    config.add_cleanup(folder.cleanup)
    # Zig compiles a C library for each target once, which takes minutes.
    os.environ.setdefault("ZIG_GLOBAL_CACHE_DIR", str(user_cache_path("zig")))
    os.environ["XDG_CACHE_HOME"] = folder.name
