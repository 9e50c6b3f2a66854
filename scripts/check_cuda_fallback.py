"""Prove that a silent fallback to the CPU is noticed: needs onnxruntime-gpu and onnx, on a machine without a GPU.

onnxruntime's CUDA build, asked for CUDA where there is none, opens the model on the CPU and says nothing an exit code
would show. Run by `make check-cuda-fallback` in an environment of its own, because onnxruntime and onnxruntime-gpu
provide the same module.
"""

import sys
import tempfile
from pathlib import Path

import onnxruntime
from onnx import TensorProto, helper, save

from pipeline.backends import probe
from pipeline.backends.backend import Source
from pipeline.backends.onnxruntime import CudaOptions, open_cuda
from pipeline.errors import UnavailableError
from pipeline.interface import Interface


def tiny_model(path: Path) -> Path:
    shape = ["batch", 4]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "tiny",
        [value("x", TensorProto.FLOAT, shape)],
        [value("y", TensorProto.FLOAT, shape)],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def main() -> int:
    if (reason := probe.cuda_device()) is None:
        print("skipped: there is an NVIDIA device here, so nothing falls back")
        return 0
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        print("failed: this onnxruntime has no CUDA provider built in; install onnxruntime-gpu", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder) / "tiny.onnx")
        asked = ["CUDAExecutionProvider", "CPUExecutionProvider"]
        got = onnxruntime.InferenceSession(str(model), providers=asked).get_providers()
        print(f"onnxruntime-gpu {onnxruntime.__version__}, asked for {asked[0]}: runs on {', '.join(got)}")
        try:
            open_cuda(Source(Interface((), (), ("y",)), model), CudaOptions())
        except UnavailableError as error:
            print(f"noticed: {error.message}")
        else:
            print("failed: onnxruntime-cuda opened on the CPU and nobody noticed", file=sys.stderr)
            return 1
    backend = probe.onnxruntime_cuda()
    print(f"the probe says: {backend}")
    return 0 if backend == reason and "CUDAExecutionProvider" not in got else 1


if __name__ == "__main__":
    sys.exit(main())
