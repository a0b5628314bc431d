"""Whether two implementations of one network agree, and what the smallest differences between them mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

Images = NDArray[np.float32]
Inference = Callable[[Images], NDArray[np.float32]]
"""Images [1, 3, R, R] -> logits [1, classes]."""

# Outputs may differ by rounding: float32 eps (1.2e-7) times the longest sum of a network (960 products) is 1.1e-4 of
# the largest output. Random rounding stays far below this bound; a wrong kernel far above.
TOLERANCE = 1.1e-4


class VerifyError(RuntimeError):
    """The compiled network does not compute what the reference computes."""


@dataclass(frozen=True)
class Verification:
    """How far two implementations of one network agree.

    top1_agreement: the share of images for which both have the same highest logit.
    """

    against: str
    images: int
    max_abs_error: float
    top1_agreement: float


def compare(compiled: Inference, reference: Inference, images: Iterable[Images], against: str) -> Verification:
    """Run both on every image.

    Raises:
        VerifyError: no images, an output of another shape, one that is not finite, or one beyond `TOLERANCE` of the
            largest reference output.
    """
    worst, largest, agreed, count = 0.0, 1.0, 0, 0
    for image in images:
        ours, theirs = compiled(image), reference(image)
        if ours.shape != theirs.shape:
            raise VerifyError(f"The compiled network answers with shape {ours.shape}, {against} with {theirs.shape}.")
        if not np.isfinite(ours).all():
            raise VerifyError(
                f"The compiled network's output for image {count} is not finite. Please report this model."
            )
        worst = max(worst, float(np.abs(ours - theirs).max()))
        largest = max(largest, float(np.abs(theirs).max()))
        agreed += int(ours.argmax() == theirs.argmax())
        count += 1
    if count == 0:
        raise VerifyError("There are no images to verify with.")
    if worst > TOLERANCE * largest:
        raise VerifyError(
            f"The compiled network differs from {against} by up to {worst:.3g}; rounding explains at most "
            f"{TOLERANCE * largest:.2g}. This is a bug of a kernel: please report the model and the target."
        )
    return Verification(against, count, worst, agreed / count)


def onnx_reference(model: onnx.ModelProto) -> Inference:
    """Inference by ONNX's own reference implementation, for models that have no PyTorch network here."""
    evaluator = ReferenceEvaluator(model)
    name = model.graph.input[0].name

    def run(image: Images) -> NDArray[np.float32]:
        outputs: list[Any] = list(evaluator.run(None, {name: image}))
        return np.asarray(outputs[0], dtype=np.float32)

    return run


def random_image(shape: tuple[int, ...], seed: int = 0) -> Images:
    """Numbers like those of normalised pixels, in [-1, 1)."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)
