from __future__ import annotations

import errno
from importlib import import_module

import pytest

from pipeline.errors import EXIT_CODES, ExitCode, exit_code, expected_errors, sentence


@pytest.mark.parametrize("name", EXIT_CODES)
def test_every_name_is_an_exception_class(name: str) -> None:
    module, cls = name.split(":")
    found = getattr(import_module(module), cls)
    assert issubclass(found, Exception)
    assert found in expected_errors()


def test_every_code_has_a_meaning_and_is_used() -> None:
    assert all(code.meaning for code in ExitCode)
    assert set(EXIT_CODES.values()) == set(ExitCode) - {ExitCode.OK, ExitCode.INTERRUPTED}


def test_a_subclass_has_the_code_of_its_base() -> None:
    assert exit_code(FileNotFoundError()) is ExitCode.STORAGE


def test_a_bug_is_not_expected() -> None:
    assert not isinstance(KeyError("x"), expected_errors())
    with pytest.raises(LookupError, match="KeyError has no exit code"):
        exit_code(KeyError("x"))


def test_sentences() -> None:
    assert sentence(OSError(errno.ENOSPC, "No space left on device", "a/b")) == "No space left on device: a/b."
    assert sentence(OSError(errno.ENOSPC, "No space left on device")) == "No space left on device."
    assert sentence(ValueError("As it is.")) == "As it is."
