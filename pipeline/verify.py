"""PyTorch's side of a comparison: the one module of the pipeline that holds tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.agreement import Images, Inference, compare
from supernet.architecture import Architecture
from supernet.data import Split, normalise
from supernet.export import fold_batch_norm
from supernet.network import Network, build_network
from supernet.train import load_network


def pytorch(network: Network) -> Inference:
    """Inference by PyTorch, on the CPU."""

    @torch.inference_mode()
    def run(image: Images) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = network(torch.from_numpy(image)).numpy()
        return logits

    network.eval()
    return run


def check_half_weights(compiled: Inference, network: Network, images: Iterable[Images], tolerance: float) -> None:
    """Compare with PyTorch after the weights of `network` are rounded as the compiled one's are.

    Only float32's rounding is left to tell them apart, so what a kernel does wrong cannot hide behind what float16 does
    to the weights. `tolerance` is that for float32.

    Raises:
        VerifyError: they differ by more.
    """
    rounded = fold_batch_norm(network)
    for module in rounded.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            module.weight.data = module.weight.data.half().float()
    compare(compiled, pytorch(rounded), images, "PyTorch with the same float16 weights", tolerance)


def bind_pytorch(
    architecture: str, weights: Path, threads: int, image: Images
) -> tuple[Callable[[], object], Callable[[], NDArray[np.float32]]]:
    """A trained network for timing, eager and channels-last: one inference, and one that answers the output.

    Sets the number of threads of this process.
    """
    torch.set_num_threads(threads)
    network = load_network(Architecture.from_text(architecture), weights)
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.from_numpy(image).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        logits: torch.Tensor = network(x)
        return logits

    return run, lambda: run().numpy()


def random_network(architecture: Architecture, seed: int = 0) -> Network:
    """The network with random weights, the same for the same seed, and without touching torch's global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(architecture).eval()


def save_weights(network: Network, path: Path) -> None:
    """Write the weights as `load_network` reads them."""
    torch.save(network.state_dict(), path)


def real_images(split: Split, limit: int, batch: int = 1) -> list[Images]:
    """The first images of a split, normalised: at most `limit`, as arrays [batch, 3, R, R]; of too few some again."""
    count = max(batch, min(limit, len(split)) // batch * batch)
    images, _ = split.batch(torch.arange(count) % len(split))
    normalised = normalise(images).numpy()
    return list(normalised.reshape(-1, batch, *normalised.shape[1:]))
