from __future__ import annotations

import numpy as np
from onnx import shape_inference

from benchmarks.networks import PUBLISHED, macs, network_model, resnet50
from pipeline.agreement import onnx_reference, random_image
from supernet.named import named_architecture


def test_resnet50_has_the_published_size() -> None:
    model = resnet50()
    assert macs(model) == 4_089_184_256  # torchvision's resnet50 (version 1.5): 4.09 G
    # 25,557,032 with batch norm's scales and shifts, of which a bias for each channel is left.
    assert sum(np.prod(tensor.dims) for tensor in model.graph.initializer) == 25_557_032 - 26_560
    shape = shape_inference.infer_shapes(model, strict_mode=True).graph.output[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [1, 1000]


def test_resnet50_neither_dies_nor_explodes() -> None:
    small = resnet50(resolution=32, classes=10)
    output = onnx_reference(small)(random_image((1, 3, 32, 32)))
    assert 0.01 < np.abs(output).max() < 1000


def test_macs_are_those_of_the_architecture() -> None:
    assert len(PUBLISHED) == 5
    assert macs(network_model("mobilenet_v2")) == named_architecture("mobilenet_v2").macs
