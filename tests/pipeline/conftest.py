from __future__ import annotations

from typing import Any

import pytest
import tvm

from targets.local import LocalRunner


@pytest.fixture(autouse=True)
def no_builds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit test that compiles or measures by mistake fails at once; those that mean to are marked."""
    if request.node.get_closest_marker("compiles"):
        return

    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("this test is not marked `compiles`")

    monkeypatch.setattr(tvm, "compile", refuse)
    monkeypatch.setattr(LocalRunner, "run", refuse)
