"""Options of the whole suite."""

import pytest
from hypothesis import settings

# Hypothesis tries the same examples on every run, unless `--hypothesis-profile=thorough` asks for more, and others.
settings.register_profile("steady", derandomize=True)
settings.register_profile("thorough", max_examples=1000)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files that tests compare with")
