"""An engine from an ONNX file, with TensorRT's Python interface (https://docs.nvidia.com/deeplearning/tensorrt/latest/).

Everything stays in float32: the network is strongly typed (always, from TensorRT 11 on), and TF32, which TensorRT allows itself, is
cleared. Which kernel is taken is measured while it is built, so that two builds differ; no timing cache carries choices over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import ExportError
from pipeline.formats.artifact import Written
from pipeline.formats.driver import cuda_facts
from pipeline.formats.tensorrt import profiles, stated
from pipeline.formats.tensorrt.options import TensorRtOptions

if TYPE_CHECKING:
    from pipeline.formats.format import FromArtifact, Options

_MIB = 1 << 20
_MOST_MESSAGES = 3


def build(origin: FromArtifact, options: Options) -> Written:
    """Build the engine of an ONNX artifact on the first GPU, and write beside it what it is bound to.

    Raises:
        ExportError: TensorRT refuses the file, with its own messages; or a value that goes in decides a size.
    """
    import tensorrt as trt

    assert isinstance(options, TensorRtOptions)  # noqa: S101 - the table pairs them
    messages: list[str] = []

    class Collected(trt.ILogger):  # type: ignore[misc]  # TensorRT's binding has no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.append(text)

    builder = trt.Builder(Collected())
    # From TensorRT 11 on every network is; before, it has to be asked for.
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, Collected())
    if not parser.parse_from_file(str(origin.artifact.files[0])):
        messages[:0] = [parser.get_error(index).desc() for index in range(parser.num_errors)]
        raise _refused("does not read the ONNX file", messages)
    ranges = profiles.profile(origin.interface, options.best)
    plan = builder.build_serialized_network(network, _config(trt, builder, network, options, ranges))
    if plan is None:
        raise _refused("builds no engine", messages)
    origin.target.write_bytes(plan)
    facts = {
        "tensorrt": trt.__version__,
        "device": cuda_facts(),
        "profile": {
            name: {"min": list(each.least), "best": list(each.best), "max": list(each.most)}
            for name, each in ranges.items()
        },
        "precision": "float32",
        "made_from": origin.artifact.name,
        **origin.identity,
    }
    return Written(
        (origin.target, stated.write(origin.target, facts)),
        {name: facts[name] for name in ("tensorrt", "device", "profile")},
    )


def _config(trt: Any, builder: Any, network: Any, options: TensorRtOptions, ranges: dict[str, profiles.Range]) -> Any:
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.set_flag(trt.BuilderFlag.DISABLE_TIMING_CACHE)
    config.builder_optimization_level = options.optimization_level
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * _MIB)
    profile, dynamic = builder.create_optimization_profile(), False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise ExportError(
                f"tensorrt: the values of {tensor.name} decide sizes, and the config declares no range of them for an engine",
                hint="leave `tensorrt` out of `exports`",
            )
        if -1 in tuple(tensor.shape):
            each, dynamic = ranges[tensor.name], True
            profile.set_shape(tensor.name, each.least, each.best, each.most)
    if dynamic:
        config.add_optimization_profile(profile)
    return config


def _refused(what: str, messages: list[str]) -> ExportError:
    told = "; ".join(each.strip() for each in messages[:_MOST_MESSAGES]) or "it says nothing"
    return ExportError(
        f"tensorrt {what}: {told}", hint="leave `tensorrt` out of `exports`, or try another `opset` for onnx"
    )
