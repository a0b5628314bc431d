from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from pipeline.agreement import LEAST_TOLERANCE, VerifyError, compare, onnx_reference, random_image, tolerance
from pipeline.verify import pytorch, random_network
from supernet.export import to_onnx
from supernet.presets import DIGITS

TOLERANCE = LEAST_TOLERANCE
IMAGES = [random_image((1, 3, 4, 4), seed) for seed in range(5)]


def mean_of_rows(image: np.ndarray) -> np.ndarray:
    """Three logits for an image."""
    return image.mean(axis=(2, 3))


def test_equal_functions_agree() -> None:
    found = compare(mean_of_rows, mean_of_rows, IMAGES, "itself", TOLERANCE)
    assert (found.images, found.max_abs_error, found.top1_agreement) == (5, 0.0, 1.0)


def test_a_difference_within_rounding_is_reported() -> None:
    found = compare(lambda x: mean_of_rows(x) + np.float32(0.9 * TOLERANCE), mean_of_rows, IMAGES, "itself", TOLERANCE)
    assert found.max_abs_error == pytest.approx(0.9 * TOLERANCE, rel=1e-3)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: mean_of_rows(x) + 2 * TOLERANCE, r"differs from PyTorch by up to 0.0002; .* report the model"),
        (lambda x: mean_of_rows(x)[:, :2], r"answers with shape \(1, 2\), PyTorch with \(1, 3\)"),
        (
            lambda x: mean_of_rows(x) * np.nan,
            "The compiled network answers image 0 with something that is not a finite number",
        ),
    ],
)
def test_what_is_not_rounding_is_an_error(wrong: object, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        compare(wrong, mean_of_rows, IMAGES, "PyTorch", TOLERANCE)  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_reference_that_is_not_finite_proves_nothing(value: float) -> None:
    with pytest.raises(VerifyError, match="PyTorch answers image 0 with something that is not a finite number"):
        compare(mean_of_rows, lambda x: mean_of_rows(x) * value, IMAGES, "PyTorch", TOLERANCE)


def test_another_top1_is_an_error_unless_rounding_explains_it() -> None:
    first = np.array([[1.0, 1.0 - 0.5 * TOLERANCE, 0.0]], np.float32)
    near = np.array([[1.0 - 0.5 * TOLERANCE, 1.0, 0.0]], np.float32)
    assert compare(lambda x: near, lambda x: first, IMAGES, "PyTorch", TOLERANCE).top1_agreement == 0.0
    # Each logit is off by less than the tolerance, and still the order of two that are apart by more is reversed.
    first[0, 1], near[0] = 1.0 - 1.5 * TOLERANCE, (1.0 - 0.8 * TOLERANCE, 1.0 - 0.7 * TOLERANCE, 0.0)
    with pytest.raises(VerifyError, match=r"prefers a class that is 0.00015 behind the one PyTorch prefers"):
        compare(lambda x: near, lambda x: first, IMAGES, "PyTorch", TOLERANCE)


def test_the_tolerance_covers_the_longest_sum_of_the_model() -> None:
    def model(*shapes: tuple[int, ...]) -> onnx.ModelProto:
        weights = [numpy_helper.from_array(np.zeros(shape, np.float32), str(shape)) for shape in shapes]
        return onnx.ModelProto(graph=onnx.GraphProto(initializer=weights))

    eps = float(np.finfo(np.float32).eps)
    assert tolerance(model((10, 1728), (1728,), (8, 3, 3, 3))) == 1728 * eps
    assert tolerance(model((1728, 10))) == 1728 * eps
    assert tolerance(model((2, 256, 3, 3))) == 2304 * eps
    assert tolerance(model((8, 3, 3, 3))) == tolerance(model()) == LEAST_TOLERANCE


def test_no_images() -> None:
    with pytest.raises(VerifyError, match="no images"):
        compare(mean_of_rows, mean_of_rows, [], "PyTorch", TOLERANCE)


def test_pytorch_and_the_onnx_reference_agree_on_an_export() -> None:
    state = torch.random.get_rng_state()
    network = random_network(DIGITS.baseline)
    assert torch.equal(torch.random.get_rng_state(), state)
    model = to_onnx(network, DIGITS.baseline)
    images = [random_image((1, 3, 16, 16), seed) for seed in range(3)]
    found = compare(onnx_reference(model), pytorch(network), images, "PyTorch", tolerance(model))
    assert found.top1_agreement == 1.0


def test_random_networks_are_a_function_of_the_seed() -> None:
    first, same, other = (random_network(DIGITS.baseline, seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
