from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from supernet.data import ImageData
from supernet.settings import SearchSettings
from supernet.space import SearchSpace
from supernet.weights import SearchError, SuperNetWeights, warm_up

Augment = Callable[[Tensor, torch.Generator], Tensor]
SETTINGS = SearchSettings(warmup_epochs=2, epochs=2, batch_size=16, warmup_lr=0.1, lr=0.05)


@pytest.fixture
def make(tiny: SearchSpace, tiny_data: ImageData, add_noise: Augment) -> Callable[..., SuperNetWeights]:
    def call(settings: SearchSettings = SETTINGS) -> SuperNetWeights:
        return SuperNetWeights(tiny, tiny_data, settings, add_noise, torch.device("cpu"))

    return call


def learn(weights: SuperNetWeights, paths: list[list[int]], epoch: int = 0) -> None:
    generator = torch.Generator().manual_seed(epoch)
    for number, (path, batch) in enumerate(zip(paths, weights.batches(generator))):
        weights.step(batch, epoch, number, path, generator)


EVERY = [[0, 0, 0], [1, 1, 1], [2, 0, 0]]


def test_a_step_moves_the_weights_of_the_path_alone(make: Callable[..., SuperNetWeights]) -> None:
    weights = make()
    before = {name: value.clone() for name, value in weights.supernet.state_dict().items()}
    learn(weights, [[0, 1, 2]])
    moved = {name for name, value in weights.supernet.state_dict().items() if not torch.equal(value, before[name])}
    assert {
        name.rpartition(".candidates.")[0] + f"/{name.split('.')[3]}" for name in moved if "candidates" in name
    } == {
        "blocks.0/0",
        "blocks.1/1",
    }
    assert any(name.startswith("stem") for name in moved)
    assert any(name.startswith("head") for name in moved)


def test_the_learning_rate_falls_along_two_cosines(make: Callable[..., SuperNetWeights]) -> None:
    """One of the warm-up, one after it; three steps an epoch."""
    weights, seen = make(), []
    for epoch in range(4):
        generator = torch.Generator().manual_seed(epoch)
        for number, batch in enumerate(weights.batches(generator)):
            weights.step(batch, epoch, number, [0, 0, 0], generator)
            seen.append(weights.optimizer.param_groups[0]["lr"])
    half = [0.5 * (1 + math.cos(math.pi * step / 6)) for step in range(6)]
    assert seen == pytest.approx([0.1 * x for x in half] + [0.05 * x for x in half], abs=1e-15)


def test_pruning_gives_up_weights_and_momentum_and_keeps_those_of_the_others(
    make: Callable[..., SuperNetWeights],
) -> None:
    weights = make()
    learn(weights, EVERY)
    names = {id(weight): name for name, weight in weights.supernet.named_parameters()}

    def momentum() -> dict[str, Tensor]:
        state = weights.optimizer.state
        return {names[id(w)]: held["momentum_buffer"] for w, held in state.items()}

    before = {name: (weight.clone(), momentum()[name]) for name, weight in weights.supernet.named_parameters()}
    given_up = ("blocks.0.candidates.1.", "blocks.2.candidates.0.")
    assert any(name.startswith(given_up) for name in momentum())
    weights.prune([(0, 1), (2, 0)])
    kept = {name for name in before if not name.startswith(given_up)}
    assert momentum().keys() == kept
    assert {name for name, _ in weights.supernet.named_parameters()} == kept
    assert [id(w) for group in weights.optimizer.param_groups for w in group["params"]] == [
        id(w) for w in weights.supernet.parameters()
    ]
    for name, weight in weights.supernet.named_parameters():
        assert torch.equal(weight, before[name][0])
        assert momentum()[name] is before[name][1]


def test_pruning_changes_nothing_for_what_is_left(make: Callable[..., SuperNetWeights]) -> None:
    """The next steps of other paths are those of weights that were never pruned, to the last bit."""
    pruned, whole = make(), make()
    for weights in (pruned, whole):
        learn(weights, EVERY)
    pruned.prune([(0, 1), (2, 0)])
    for weights in (pruned, whole):
        learn(weights, [[0, 0, 1], [2, 1, 2], [0, 1, 1]], epoch=1)
    expected = whole.supernet.state_dict()
    for name, value in pruned.supernet.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_pruning_nothing_keeps_the_optimiser(make: Callable[..., SuperNetWeights]) -> None:
    weights = make()
    optimizer = weights.optimizer
    weights.prune([])
    assert weights.optimizer is optimizer


def test_a_state_with_pruned_candidates_goes_on_in_new_weights(make: Callable[..., SuperNetWeights]) -> None:
    weights, other = make(), make()
    learn(weights, EVERY)
    weights.prune([(0, 1)])
    weights.prune([(2, 0)])
    # As a file does, which shares no tensor.
    other.load_state(deepcopy(weights.state()))
    assert other.pruned == [[0, 1], [2, 0]]
    for each in (weights, other):
        learn(each, [[0, 0, 1], [2, 1, 2], [0, 1, 1]], epoch=1)
    expected = weights.supernet.state_dict()
    assert other.supernet.state_dict().keys() == expected.keys()
    for name, value in other.supernet.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_loss_that_is_no_number(make: Callable[..., SuperNetWeights]) -> None:
    weights = make()
    weights.augment = lambda images, generator: images * math.inf
    message = r"The loss became nan in epoch 2 of the search. The usual cause is the learning rate \(0.05\): lower it"
    with pytest.raises(SearchError, match=message):
        learn(weights, EVERY, epoch=1)


def test_networks_are_judged_on_the_same_images_each_time(make: Callable[..., SuperNetWeights]) -> None:
    """24 images in batches of 16: one batch, or less where fewer are asked for."""
    weights = make()
    (images, labels), *rest = weights.judged.batches
    assert (len(images), len(labels), rest) == (16, 16, [])
    assert torch.equal(make().judged.batches[0][0], images)
    assert weights.judged is weights.judged
    assert not torch.equal(make(replace(SETTINGS, seed=1)).judged.batches[0][0], images)
    assert [len(y) for _, y in make(replace(SETTINGS, batch_size=5, judged_images=12)).judged.batches] == [5, 5]
    assert [len(y) for _, y in make(replace(SETTINGS, batch_size=5)).judged.batches] == [5, 5, 5, 5]


def test_a_validation_batch_is_of_the_validation_split(
    make: Callable[..., SuperNetWeights], tiny_data: ImageData
) -> None:
    weights = make()
    every, labels_of = weights.data.validation.batch(torch.arange(24))
    ((images, labels),) = weights.validation_batch(torch.Generator().manual_seed(0)).batches
    known = {tuple(image.flatten().tolist()): int(label) for image, label in zip(every, labels_of)}
    found = ((images + 1.0) * 127.5).round().to(torch.uint8)
    assert len(images) == 16
    assert [known[tuple(image.flatten().tolist())] for image in found] == labels.tolist()


def test_the_warm_up_goes_on_where_it_was(make: Callable[..., SuperNetWeights], tmp_path: Path) -> None:
    whole, broken, calls = make(), make(), list[tuple[str, int, int]]()

    class StopError(Exception):
        pass

    def stop(*call: object) -> None:
        raise StopError

    def note(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        calls.append((stage, done, total))

    def run(weights: SuperNetWeights, name: str, progress: Callable[..., None]) -> None:
        warm_up(weights, tmp_path / name, 4, progress, pytest.fail, lambda: 0.0)

    run(whole, "whole", note)
    assert calls == [("search", 1, 4), ("search", 2, 4)]
    with pytest.raises(StopError):
        run(broken, "broken", stop)
    calls.clear()
    again = make()
    run(again, "broken", note)
    assert calls == [("search", 2, 4)]
    assert again.history == whole.history
    expected = whole.supernet.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.supernet.state_dict().items())
