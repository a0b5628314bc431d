from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline.agreement import TOLERANCE, VerifyError, compare, onnx_reference, random_image
from pipeline.verify import pytorch, random_network
from supernet.export import to_onnx
from supernet.space import DIGITS

IMAGES = [random_image((1, 3, 4, 4), seed) for seed in range(5)]


def mean_of_rows(image: np.ndarray) -> np.ndarray:
    """Three logits for an image."""
    return image.mean(axis=(2, 3))


def test_equal_functions_agree() -> None:
    found = compare(mean_of_rows, mean_of_rows, IMAGES, against="itself")
    assert (found.images, found.max_abs_error, found.top1_agreement) == (5, 0.0, 1.0)


def test_a_difference_within_rounding_is_reported() -> None:
    found = compare(lambda x: mean_of_rows(x) + np.float32(0.9 * TOLERANCE), mean_of_rows, IMAGES, against="itself")
    assert found.max_abs_error == pytest.approx(0.9 * TOLERANCE, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: mean_of_rows(x) + 2 * TOLERANCE, r"differs from PyTorch by up to 0.00022; .* report the model"),
        (lambda x: mean_of_rows(x)[:, :2], r"answers with shape \(1, 2\), PyTorch with \(1, 3\)"),
        (lambda x: mean_of_rows(x) * np.nan, "output for image 0 is not finite"),
    ],
)
def test_what_is_not_rounding_is_an_error(wrong: object, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        compare(wrong, mean_of_rows, IMAGES, against="PyTorch")  # type: ignore[arg-type]


def test_no_images() -> None:
    with pytest.raises(VerifyError, match="no images"):
        compare(mean_of_rows, mean_of_rows, [], against="PyTorch")


def test_pytorch_and_the_onnx_reference_agree_on_an_export() -> None:
    state = torch.random.get_rng_state()
    network = random_network(DIGITS.baseline)
    assert torch.equal(torch.random.get_rng_state(), state)
    model = to_onnx(network, DIGITS.baseline)
    images = [random_image((1, 3, 16, 16), seed) for seed in range(3)]
    assert compare(onnx_reference(model), pytorch(network), images, against="PyTorch").top1_agreement == 1.0


def test_random_networks_are_a_function_of_the_seed() -> None:
    first, same, other = (random_network(DIGITS.baseline, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
