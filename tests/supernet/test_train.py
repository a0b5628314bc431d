from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.architecture import Architecture
from supernet.checkpoint import CheckpointError
from supernet.data import ImageData
from supernet.loop import top1
from supernet.settings import TrainSettings
from supernet.train import TrainError, TrainResult, load_network, train

Augment = Callable[[Tensor, torch.Generator], Tensor]
ARCH = Architecture.from_text("r8 c8s1 8k3e1 16k3e2s2 16skip h16 n3")
SETTINGS = TrainSettings(epochs=3, batch_size=16)


@pytest.fixture
def run(tiny_data: ImageData, add_noise: Augment, tmp_path: Path) -> Callable[..., TrainResult]:
    def call(settings: TrainSettings = SETTINGS, arch: Architecture = ARCH, **changed: Any) -> TrainResult:
        options: dict[str, Any] = {"augment": add_noise, "clock": lambda: 0.0, **changed}
        progress = options.pop("progress", lambda *call: None)
        checkpoint = options.pop("checkpoint", tmp_path / "train.ckpt")
        return train(arch, options.pop("data", tiny_data), settings, checkpoint, progress, **options)

    return call


def test_it_learns_and_its_weights_give_the_same_top1(run: Callable[..., TrainResult], tiny_data: ImageData) -> None:
    result = run(replace(SETTINGS, epochs=20, warmup_epochs=2))
    assert result.top1 > 0.9
    assert result.state.name == "train.weights.pt"
    network = load_network(ARCH, result.state)
    assert not network.training
    assert top1(network, tiny_data.test, 24, torch.device("cpu")) == result.top1


def test_history_and_progress(run: Callable[..., TrainResult]) -> None:
    calls = []
    result = run(progress=lambda *call: calls.append(call))
    assert [(stage, done, total) for stage, done, total, _ in calls] == [("train", n, 3) for n in (1, 2, 3)]
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    assert json.loads(json.dumps(result.history)) == result.history


def test_the_test_split_is_read_once_and_never_trained_on(
    run: Callable[..., TrainResult], tiny_data: ImageData
) -> None:
    read = []

    def spy(rows: Tensor) -> Tensor:
        read.append(rows)
        return tiny_data.test.read(rows)

    run(data=replace(tiny_data, test=replace(tiny_data.test, read=spy)))
    assert torch.cat(read).tolist() == tiny_data.test.rows.tolist()


def test_the_seed_decides_everything(run: Callable[..., TrainResult], tmp_path: Path) -> None:
    settings = replace(SETTINGS, dropout=0.5)
    files = []
    for n, seed in enumerate((0, 0, 1)):
        files.append(run(replace(settings, seed=seed), checkpoint=tmp_path / f"{n}.ckpt").state.read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


def test_a_finished_training_is_not_repeated(run: Callable[..., TrainResult]) -> None:
    first, calls = run(), []
    assert run(progress=lambda *call: calls.append(call)) == first
    assert calls == []


def test_training_without_an_augmentation_takes_what_suits_the_data(run: Callable[..., TrainResult]) -> None:
    assert len(run(augment=None).history) == 3


def test_a_loss_that_is_no_number_stops_the_training(run: Callable[..., TrainResult]) -> None:
    def spoil(images: Tensor, generator: torch.Generator) -> Tensor:
        return images * math.nan

    with pytest.raises(TrainError, match=r"loss became nan in epoch 1 of the training. .* learning rate \(0.05\)"):
        run(augment=spoil)


def test_a_checkpoint_of_another_training_is_refused(run: Callable[..., TrainResult]) -> None:
    run()
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another lr\."):
        run(replace(SETTINGS, lr=0.1))


@pytest.mark.parametrize("change", ["relabelled", "replaced"])
def test_a_checkpoint_of_other_images_is_refused(
    run: Callable[..., TrainResult], tiny_data: ImageData, change: str
) -> None:
    run()
    split = tiny_data.train
    other = replace(split, labels=split.labels.flip(0)) if change == "relabelled" else replace(split, stamp="other")
    with pytest.raises(CheckpointError, match=r"belongs to another run: it has another data\."):
        run(data=replace(tiny_data, train=other))


def test_a_corrupt_checkpoint_is_moved_aside_and_the_training_starts_over(
    run: Callable[..., TrainResult], tmp_path: Path
) -> None:
    first, notices = run(), list[str]()
    (tmp_path / "train.ckpt").write_bytes(b"not a checkpoint")
    assert run(notice=notices.append) == first
    assert "train.ckpt.corrupt-1, and this stage starts over" in notices[0]


def test_weights_of_another_network_are_refused(run: Callable[..., TrainResult]) -> None:
    result = run()
    with pytest.raises(CheckpointError, match=r"train.weights.pt has no weights for `r8 c8s1 8k3e1 16k5e2s2"):
        load_network(Architecture.from_text("r8 c8s1 8k3e1 16k5e2s2 16skip h16 n3"), result.state)


@pytest.mark.parametrize("damage", ["empty", "cut", "one bit", "no archive"])
def test_a_damaged_weights_file_is_refused(run: Callable[..., TrainResult], damage: str) -> None:
    path = run().state
    content = bytearray(path.read_bytes())
    weight = content.index(load_network(ARCH, path).classifier.weight.detach().numpy().tobytes())
    content[weight] ^= 1
    broken = {"empty": b"", "cut": content[:-50], "one bit": content, "no archive": b"something else"}
    path.write_bytes(broken[damage])
    with pytest.raises(CheckpointError, match=r"weights.pt has no weights for `r8 .*: it is damaged or was made for"):
        load_network(ARCH, path)
