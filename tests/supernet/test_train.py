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
from torch.nn import functional

from supernet.architecture import Architecture
from supernet.checkpoint import CheckpointError
from supernet.data import ImageData
from supernet.loop import batches, cosine_lr, seeded, top1
from supernet.network import Network, build_network
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


def by_hand(data: ImageData, settings: TrainSettings, augment: Augment) -> tuple[Network, dict[str, Tensor]]:
    """The network after all its steps, and the moving average of everything in it: the first step's, then a mean."""
    cpu, steps, average = torch.device("cpu"), 4, dict[str, Tensor]()
    with seeded(settings.seed, 0, cpu):
        network = build_network(ARCH, settings.dropout)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=0.0, momentum=settings.momentum, nesterov=True, weight_decay=settings.weight_decay
    )
    for epoch in range(settings.epochs):
        network.train()
        with seeded(settings.seed, epoch + 1, cpu) as generator:
            for step, (images, labels) in enumerate(batches(data.train_all, settings.batch_size, cpu, generator)):
                optimizer.param_groups[0]["lr"] = cosine_lr(settings.lr, epoch * steps + step, settings.epochs * steps)
                logits = network(augment(images, generator))
                loss = functional.cross_entropy(logits, labels, label_smoothing=settings.label_smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                for name, value in network.state_dict().items():
                    before = average.get(name)
                    kept = 0.0 if before is None else settings.ema
                    average[name] = kept * (value if before is None else before) + (1.0 - kept) * value
    return network, average


def test_without_an_average_it_is_plain_sgd_to_the_last_bit(
    run: Callable[..., TrainResult], tiny_data: ImageData, add_noise: Augment
) -> None:
    settings = replace(SETTINGS, dropout=0.5)
    assert settings.ema == 0.0
    expected, _ = by_hand(tiny_data, settings, add_noise)
    found = load_network(ARCH, run(settings).state)
    for name, value in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


class _StopError(Exception):
    pass


@pytest.mark.parametrize("stopped_after", [0, 1, 2], ids=["never stopped", "stopped after 1", "stopped after 2"])
def test_the_moving_average_is_shipped(
    run: Callable[..., TrainResult], tiny_data: ImageData, add_noise: Augment, stopped_after: int
) -> None:
    """Of weights and of the statistics of batch norm, and a training that was stopped goes on with it."""
    settings = replace(SETTINGS, ema=0.8)

    def stop(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if done == stopped_after:
            raise _StopError

    if stopped_after:
        with pytest.raises(_StopError):
            run(settings, progress=stop)
    result = run(settings)
    network, average = by_hand(tiny_data, settings, add_noise)
    found = load_network(ARCH, result.state)
    for name, value in found.state_dict().items():
        if value.is_floating_point():
            # 12 steps, each of which rounds a product and a sum of values up to `scale`: 24 halves of float32's eps.
            scale = max(1.0, average[name].abs().max().item())
            torch.testing.assert_close(value, average[name], rtol=0, atol=24 * 2.0**-24 * scale)
    moved = (average["classifier.weight"] - network.state_dict()["classifier.weight"]).abs().max()
    assert moved > 1e-3, "the average is not the last value"
    assert result.top1 == top1(found, tiny_data.test, 24, torch.device("cpu"))


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
