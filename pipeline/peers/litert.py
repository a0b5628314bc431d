"""LiteRT (TensorFlow Lite) with XNNPACK."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from pipeline.agreement import Images
from pipeline.peers.interface import BenchModel, Bound
from pipeline.peers.layers import read_layers


class LiteRt:
    """LiteRT's interpreter, whose default on a CPU is XNNPACK."""

    name, packages = "litert", {"ai_edge_litert": "ai-edge-litert"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """The layers of the ONNX file, written as a .tflite model.

        Raises:
            RuntimeUnavailableError: an operator that has no form in TensorFlow Lite.
        """
        from ai_edge_litert.interpreter import Interpreter

        from pipeline.peers.tflite import to_tflite

        content = to_tflite(read_layers(onnx.load(model.onnx_file), self.name), image.shape)
        interpreter = Interpreter(model_content=content, num_threads=threads)
        interpreter.allocate_tensors()
        (source,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
        interpreter.set_tensor(source["index"], np.ascontiguousarray(image.transpose(0, 2, 3, 1)))

        def output() -> NDArray[np.float32]:
            interpreter.invoke()
            return np.array(interpreter.get_tensor(answer["index"]), dtype=np.float32)

        return Bound(interpreter.invoke, output)
