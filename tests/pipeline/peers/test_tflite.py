from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("ai_edge_litert")

from pipeline.peers.interface import RuntimeUnavailableError
from pipeline.peers.layers import Layer, LayerGraph
from pipeline.peers.tflite import to_tflite

RANDOM = np.random.default_rng(0)
CONV = Layer(
    kind="conv",
    inputs=("image",),
    output="a",
    weights=RANDOM.standard_normal((4, 3, 3, 3), dtype=np.float32),
    bias=RANDOM.standard_normal(4, dtype=np.float32),
    kernel=3,
    stride=2,
    padding=1,
    clip=(0.0, np.inf),
)
POOL = Layer(kind="max_pool", inputs=("a",), output="b", kernel=3, stride=2, padding=1)
SHAPE = (1, 3, 10, 12)


def graph(*layers: Layer) -> LayerGraph:
    return LayerGraph(input="image", output=layers[-1].output, layers=layers)


def test_padding_and_pooling_are_those_of_the_layers() -> None:
    """Strides of two over even sizes: TensorFlow's own padding would shift the windows by a pixel."""
    import torch
    from ai_edge_litert.interpreter import Interpreter

    from pipeline.peers.torch_layers import LayerModule

    network, image = graph(CONV, POOL), RANDOM.standard_normal(SHAPE, dtype=np.float32)
    interpreter = Interpreter(model_content=to_tflite(network, SHAPE))
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image.transpose(0, 2, 3, 1))
    interpreter.invoke()
    found = interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        expected = LayerModule(network)(torch.from_numpy(image)).numpy()
    # 27 products and a bias, added up in another order.
    bound = 28 * np.finfo(np.float32).eps * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ((replace(CONV, clip=(-1.0, 1.0)),), r"clips to \[0, 6\] or from 0, not to \[-1.0, 1.0\]"),
        ((replace(CONV, weights=np.zeros((4, 1, 3, 3), np.float32), groups=3),), "A convolution of 3 groups has no"),
        ((replace(CONV, clip=None), POOL), "padded maximum of what may be below zero has no form for litert"),
    ],
)
def test_what_tensorflow_lite_lacks_is_named(layers: tuple[Layer, ...], message: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=message):
        to_tflite(graph(*layers), SHAPE)
