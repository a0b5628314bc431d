"""Another runtime on a model, so many inferences: the program whose instructions `benchmarks.arm_instructions` counts.

python arm_peer.py RUNTIME MODEL INPUT.npy OUTPUT.npy RUNS      (of a 64-bit ARM Python, with nothing of this project)
"""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np


def onnxruntime(model: str, image: Any) -> Callable[[], Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda: session.run(None, {name: image})[0]


def ncnn(model: str, image: Any) -> Callable[[], Any]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    net.load_param(f"{model}.param")
    net.load_model(f"{model}.bin")
    source = ncnn.Mat(np.ascontiguousarray(image[0]))

    def run() -> Any:
        extractor = net.create_extractor()
        extractor.input("in0", source)
        return np.array(extractor.extract("out0")[1])[np.newaxis]

    return run


def litert(model: str, image: Any) -> Callable[[], Any]:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    (source,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(source["index"], np.ascontiguousarray(image.transpose(0, 2, 3, 1)))

    def run() -> Any:
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    return run


if __name__ == "__main__":
    runtime, model, image, output, runs = sys.argv[1:]
    infer = {"onnxruntime": onnxruntime, "ncnn": ncnn, "litert": litert}[runtime](model, np.load(image))
    for _ in range(int(runs)):
        result = infer()
    np.save(output, np.array(result))
