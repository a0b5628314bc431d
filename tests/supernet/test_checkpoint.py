from __future__ import annotations

import io
import os
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supernet.checkpoint import CheckpointError, load_checkpoint, save_checkpoint

STATE = {"tensor": torch.arange(5.0), "nested": {"list": [1, 2.5, "text", None]}, "flag": True}

ME = {"seed": 1, "space": "digits"}


def refuse(sentence: str) -> None:
    pytest.fail(f"unexpected notice: {sentence}")


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.ckpt"
    save_checkpoint(path, ME, STATE)
    found = load_checkpoint(path, ME, refuse)
    assert found is not None
    assert torch.equal(found.pop("tensor"), STATE["tensor"])
    assert found == {key: value for key, value in STATE.items() if key != "tensor"}
    assert [file.name for file in path.parent.iterdir()] == ["a.ckpt"]


def test_no_checkpoint_is_no_news(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "a.ckpt", ME, refuse) is None


@pytest.mark.parametrize(
    ("other", "names"),
    [({**ME, "seed": 2}, "seed"), ({"space": "cifar", "lr": 0.1}, "space, lr, seed"), ({**ME, "lr": 0.1}, "lr")],
)
def test_a_checkpoint_of_another_owner_is_refused_and_kept(
    other: dict[str, str | float], names: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.ckpt"
    save_checkpoint(path, ME, STATE)
    with pytest.raises(CheckpointError, match=rf"belongs to another run: it has another {names}\. Use another output"):
        load_checkpoint(path, other, refuse)
    assert load_checkpoint(path, ME, refuse) is not None


@given(position=st.floats(0.0, 1.0, exclude_max=True), cut=st.booleans())
def test_any_damage_is_seen_moved_aside_and_said(
    tmp_path_factory: pytest.TempPathFactory, position: float, cut: bool
) -> None:
    path = tmp_path_factory.mktemp("damage") / "a.ckpt"
    save_checkpoint(path, ME, STATE)
    content = bytearray(path.read_bytes())
    at = int(position * len(content))
    if cut:
        del content[at:]
    else:
        content[at] ^= 0x10
    path.write_bytes(content)
    notices: list[str] = []
    assert load_checkpoint(path, ME, notices.append) is None
    assert notices == [
        f"The checkpoint {path} is corrupt. It was moved to a.ckpt.corrupt-1, and this stage starts over."
    ]
    assert not path.exists()
    assert path.with_name("a.ckpt.corrupt-1").read_bytes() == content


def test_corrupt_files_are_never_overwritten(tmp_path: Path) -> None:
    path, notices = tmp_path / "a.ckpt", list[str]()
    for content in (b"one", b"two"):
        path.write_bytes(content)
        assert load_checkpoint(path, ME, notices.append) is None
    assert (tmp_path / "a.ckpt.corrupt-1").read_bytes() == b"one"
    assert (tmp_path / "a.ckpt.corrupt-2").read_bytes() == b"two"
    assert len(notices) == 2


def test_the_notice_is_logged_where_nobody_takes_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.ckpt").write_bytes(b"")
    assert load_checkpoint(tmp_path / "a.ckpt", ME) is None
    assert "is corrupt. It was moved to a.ckpt.corrupt-1" in caplog.text


def test_a_checkpoint_can_not_run_code(tmp_path: Path) -> None:
    """Only tensors and plain values are read back, even where the hash is right."""

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "evil"),)

    save_checkpoint(tmp_path / "a.ckpt", ME, {"evil": Evil()})
    with pytest.raises(UnpicklingError, match="Weights only load failed"):
        load_checkpoint(tmp_path / "a.ckpt", ME, refuse)
    assert not (tmp_path / "evil").exists()


def test_equal_states_give_equal_bytes(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a", ME, STATE)
    save_checkpoint(tmp_path / "b", ME, STATE)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert torch.load(io.BytesIO((tmp_path / "a").read_bytes().partition(b"\n")[2]), weights_only=True)["owner"] == ME
