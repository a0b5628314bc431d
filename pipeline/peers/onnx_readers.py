"""Runtimes that read the ONNX file themselves: ONNX Runtime and OpenVINO."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.agreement import Images
from pipeline.peers.interface import BenchModel, Bound


class OnnxRuntime:
    """ONNX Runtime's CPU provider with all graph optimisations."""

    name, packages = "onnxruntime", {"onnxruntime": "onnxruntime"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """Sequential execution, `threads` threads inside an operator."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        session = onnxruntime.InferenceSession(model.onnx_file, options, providers=["CPUExecutionProvider"])
        binding = session.io_binding()
        binding.bind_cpu_input(session.get_inputs()[0].name, image)
        binding.bind_output(session.get_outputs()[0].name)

        def run() -> None:
            session.run_with_iobinding(binding)

        def output() -> NDArray[np.float32]:
            run()
            return np.asarray(binding.copy_outputs_to_cpu()[0], dtype=np.float32)

        return Bound(run, output)


class OpenVino:
    """OpenVINO's CPU plugin, for latency, in float32 as the others."""

    name, packages = "openvino", {"openvino": "openvino"}

    def prepare(self, model: BenchModel, threads: int, image: Images) -> Bound:
        """One stream, `threads` threads; bfloat16, which it would choose on some machines, is off."""
        import openvino

        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        request = openvino.Core().compile_model(model.onnx_file, "CPU", config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(image))
        return Bound(request.infer, lambda: np.array(request.infer()[0], dtype=np.float32))
