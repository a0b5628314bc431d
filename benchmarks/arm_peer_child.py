"""Runs one network on another runtime, under an emulator: python arm_peer_child.py RUNTIME FILES IMAGE OUTPUT CALLS.

It imports nothing of ours, since the emulated Python has only NumPy and the runtime.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np


def onnxruntime_run(files: str, image: np.ndarray) -> Callable[[], np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = 1, 1
    session = onnxruntime.InferenceSession(f"{files}.onnx", options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    binding.bind_cpu_input(session.get_inputs()[0].name, image)
    binding.bind_output(session.get_outputs()[0].name)

    def run() -> np.ndarray:
        session.run_with_iobinding(binding)
        return np.asarray(binding.copy_outputs_to_cpu()[0], dtype=np.float32)

    return run


def ncnn_run(files: str, image: np.ndarray) -> Callable[[], np.ndarray]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(f"{files}.ncnn.param") or net.load_model(f"{files}.ncnn.bin"):
        sys.exit("ncnn cannot load the network")
    # A copy: the matrix does not keep the array alive.
    source = ncnn.Mat(np.ascontiguousarray(image[0])).clone()

    def run() -> np.ndarray:
        extractor = net.create_extractor()
        extractor.input("in0", source)
        status, found = extractor.extract("out0")
        if status:
            sys.exit("ncnn cannot run the network")
        return np.array(found, dtype=np.float32)[np.newaxis]

    return run


def litert_run(files: str, image: np.ndarray) -> Callable[[], np.ndarray]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=f"{files}.tflite", num_threads=1)
    interpreter.allocate_tensors()
    (source,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], np.ascontiguousarray(image.transpose(0, 2, 3, 1)))

    def run() -> np.ndarray:
        interpreter.invoke()
        return np.array(interpreter.get_tensor(answer["index"]), dtype=np.float32)

    return run


PREPARE = {"onnxruntime": onnxruntime_run, "ncnn": ncnn_run, "litert": litert_run}


def main() -> None:
    """Load, run so often, keep the last output."""
    runtime, files, image, output, calls = sys.argv[1:]
    run = PREPARE[runtime](files, np.load(image))
    for _ in range(int(calls)):
        found = run()
    np.save(output, found)


if __name__ == "__main__":
    main()
