"""Whether two implementations of one network agree, and what the smallest differences between them mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from targets.target import DType
from tvm_latency.opspec import WeightType

Images = NDArray[np.float32]
Inference = Callable[[Images], NDArray[np.float32]]
"""Images [1, 3, R, R] -> logits [1, classes]."""

ANSWER = "answer.npz"
"""What a library for another machine must answer there."""

# What may differ in a network of short sums: the rounding of its layers adds up. A wrong kernel is far above.
LEAST_TOLERANCE = 1e-4
# The largest share of itself by which rounding to the nearest changes a normal float16: half a unit in its tenth bit.
FLOAT16_ROUNDING = 2.0**-11
# A deep network is allowed no more than this with arithmetic in float16, whatever its roundings could add up to.
MOST_HALF_TOLERANCE = 0.05
_WITH_WEIGHTS = ("Conv", "Gemm", "MatMul")

_REPORT = "a bug of a kernel: please report the model and the target."
BUG, ALSO_BUG = f"This is {_REPORT}", f"If that fails too, it is {_REPORT}"


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


def cause_of_difference(weights: WeightType, dtype: DType) -> str:
    """What a difference beyond rounding comes from, in a network whose weights are stored and multiplied so."""
    if dtype == "tf32":
        return "The network does not stand products of 11 bits: compile it with --dtype float32. " + ALSO_BUG
    if weights == dtype == "float32":
        return BUG
    half, instead = ("arithmetic in", "--dtype") if dtype == "float16" else ("weights stored as", "--weights")
    return f"The network does not stand {half} float16: compile it with {instead} float32. {ALSO_BUG}"


def tolerance(model: onnx.ModelProto, weights: WeightType = "float32", dtype: DType = "float32") -> float:
    """The share of the largest output by which rounding may move an output: float32's eps times the longest sum.

    A convolution adds up as many products as one output channel has weights; of a matrix, which may stand either way,
    the longer side counts. Never less than `LEAST_TOLERANCE`.

    Weights stored as float16 add 4 u sqrt(L / 3) for u = 2^-11 and L layers that have weights. Rounding changes a
    weight by a share of at most u of itself (below 2^-14, of 2^-14), one independently of the other: by a standard
    deviation of at most u / sqrt(3). A sum of products with such weights is off by that share of the root of the sum of
    their squares, which is the size of the sum itself where the products neither help nor cancel each other. Clips,
    means and residual additions pass shares on, so those of the layers add up as their squares do. Of outputs that are
    off by a standard deviation, one in 16,000 is off by four. A network that leaves the bound has layers whose products
    cancel; much of its answer lies in bits that float16 does not have, and `compare` says so.

    Products in tf32 round both of their factors so, which have as many bits: that is sqrt(2) times as much.

    Arithmetic in float16 rounds what a layer answers, too, and a sum of K products each time that one is added. After k
    of them it is off its end by nothing that is known, so its size grows as sqrt(k / K): the K roundings together are
    one of u sqrt(K / 2). The share of all is 4 u sqrt((2 L + sum of K / 2) / 3), and at most `MOST_HALF_TOLERANCE`:
    what is further off is of no use, or wrong.
    """
    constants = (attribute.t for node in model.graph.node if node.op_type == "Constant" for attribute in node.attribute)
    shapes = [tuple(tensor.dims) for tensor in (*model.graph.initializer, *constants)]
    longest = max((max(shape) if len(shape) == 2 else prod(shape[1:]) for shape in shapes if len(shape) > 1), default=0)
    sums = max(LEAST_TOLERANCE, float(np.finfo(np.float32).eps) * longest)
    layers = sum(node.op_type in _WITH_WEIGHTS for node in model.graph.node)
    if dtype == "float16":
        terms = sum(_terms(model))
        return min(MOST_HALF_TOLERANCE, sums + 4 * FLOAT16_ROUNDING * sqrt((2 * layers + terms / 2) / 3))
    rounded = (weights == "float16") + 2 * (dtype == "tf32")
    return sums + 4 * FLOAT16_ROUNDING * sqrt(rounded * layers / 3)


def _terms(model: onnx.ModelProto) -> Iterator[int]:
    """How many products each layer with constant weights adds up for one output."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        shape = shapes.get(node.input[1]) if node.op_type in _WITH_WEIGHTS else None
        if shape is not None and node.op_type == "Conv":
            yield prod(shape[1:])
        elif shape is not None and len(shape) == 2:
            yield shape[any(a.name == "transB" and a.i for a in node.attribute)]


def compare(
    compiled: Inference,
    reference: Inference,
    images: Iterable[Images],
    against: str,
    tolerance: float,
    cause: str = BUG,
) -> Verification:
    """Run both on every image; `cause` says what a difference comes from.

    Raises:
        VerifyError: no images, an output of another shape or one that is not finite, outputs that differ by more than
            `tolerance` times the largest reference output, or another top-1 although the reference's is ahead by more.
    """
    worst, largest, behind, agreed, count = 0.0, 1.0, 0.0, 0, 0
    for image in images:
        ours, theirs = compiled(image), reference(image)
        if ours.shape != theirs.shape:
            raise VerifyError(f"The compiled network answers with shape {ours.shape}, {against} with {theirs.shape}.")
        for name, output in ((against, theirs), ("The compiled network", ours)):
            require_finite(f"{name} answers image {count}", output)
        worst = max(worst, float(np.abs(ours - theirs).max()))
        largest = max(largest, float(np.abs(theirs).max()))
        behind = max(behind, float(theirs.max() - theirs.flat[ours.argmax()]))
        agreed += int(ours.argmax() == theirs.argmax())
        count += 1
    if count == 0:
        raise VerifyError("There are no images to verify with.")
    allowed = tolerance * largest
    if not worst <= allowed:
        raise VerifyError(
            f"The compiled network differs from {against} by up to {worst:.3g}; rounding explains at most "
            f"{allowed:.2g}. {cause}"
        )
    if not behind <= allowed:
        raise VerifyError(
            f"The compiled network prefers a class that is {behind:.3g} behind the one {against} prefers; rounding "
            f"explains at most {allowed:.2g}. {cause}"
        )
    return Verification(against, count, worst, agreed / count)


def require_finite(who_answers: str, output: NDArray[np.float32]) -> None:
    """Refuse an output that nothing can be compared with; the message begins with whose it is.

    Raises:
        VerifyError: a number of it is not finite.
    """
    if not np.isfinite(output).all():
        raise VerifyError(
            f"{who_answers} with something that is not a finite number. Check the weights of the model; if they are "
            "finite, please report it."
        )


def onnx_reference(model: onnx.ModelProto) -> Inference:
    """Inference by ONNX's own reference implementation, for models that have no PyTorch network here."""
    evaluator = ReferenceEvaluator(model)
    name = model.graph.input[0].name

    def run(image: Images) -> NDArray[np.float32]:
        outputs: list[Any] = list(evaluator.run(None, {name: image}))
        return np.asarray(outputs[0], dtype=np.float32)

    return run


def write_answer(path: Path, reference: Inference, model: onnx.ModelProto, tolerance: float) -> None:
    """Write what a library must answer where it is measured, up to a share of its largest; see `targets.runner.Job`."""
    image = random_image(tuple(size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim))
    np.savez(path, input=image, output=reference(image), tolerance=tolerance)


def random_image(shape: tuple[int, ...], seed: int = 0) -> Images:
    """Numbers like those of normalised pixels, in [-1, 1)."""
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape).astype(np.float32)
