"""What eager and TorchScript share: devices, inference mode, and the call that is timed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.backends.backend import Options, Session
from pipeline.errors import UnavailableError
from pipeline.rebuild import calling
from pipeline.rebuild.outputs import outputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipeline.interface import Arrays, Interface

    Arguments = Callable[[Mapping[str, Any]], tuple[list[Any], dict[str, Any]]]


def prepare(device: str, options: Options) -> dict[str, Any]:
    """Set threads and TF32 as the options say, check that the device is really there, and return what was set.

    Raises:
        UnavailableError: a GPU was asked for and torch cannot use one.
    """
    import torch

    if device == "cpu":
        if threads := getattr(options, "threads", None):
            torch.set_num_threads(threads)
        return {"device": "cpu", "threads": torch.get_num_threads(), "torch": torch.__version__}
    if not torch.cuda.is_available():
        raise UnavailableError(
            f"torch {torch.__version__} cannot use a CUDA device here",
            hint="install torch's CUDA wheel and an NVIDIA driver, or leave the CUDA backend out of `require`",
        )
    tf32 = bool(getattr(options, "tf32", False))
    torch.backends.cuda.matmul.allow_tf32 = tf32
    torch.backends.cudnn.allow_tf32 = tf32
    return {"device": torch.cuda.get_device_name(), "tf32": tf32, "torch": torch.__version__}


def session(
    called: Callable[..., Any], arguments: Arguments, interface: Interface, device: str, facts: dict[str, Any]
) -> Session:
    """Return a session around a callable; `arguments` turns tensors by input name into its positional and keyword arguments."""
    import torch

    def run(arrays: Arrays) -> dict[str, Any]:
        positional, keywords = arguments(calling.tensors_from(arrays, device=device))
        with torch.inference_mode():
            named = outputs_of(called(*positional, **keywords), interface)
        # A module may return a view of its input or of its own state: the caller gets memory of its own.
        return {name: calling.array_from(tensor.clone()) for name, tensor in named.items()}

    def bind(arrays: Arrays) -> Callable[[], object]:
        host = calling.tensors_from(arrays)
        positional, keywords = arguments(host)
        mode = torch.inference_mode()

        def on_cpu() -> object:
            with mode:
                return called(*positional, **keywords)

        def on_gpu() -> object:
            with mode:
                there, by_name = arguments({name: tensor.to(device) for name, tensor in host.items()})
                named = outputs_of(called(*there, **by_name), interface)
                return [tensor.cpu() for tensor in named.values()]  # .cpu() waits for the device

        return on_cpu if device == "cpu" else on_gpu

    def bind_on_device(arrays: Arrays) -> Callable[[int], list[int]]:
        positional, keywords = arguments(calling.tensors_from(arrays, device=device))

        def calls(count: int) -> list[int]:
            marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]  # type: ignore[no-untyped-call]
            with torch.inference_mode():
                for begin, end in marks:
                    begin.record()
                    called(*positional, **keywords)
                    end.record()
            torch.cuda.synchronize()
            return [round(begin.elapsed_time(end) * 1e6) for begin, end in marks]

        return calls

    return Session(run, bind, facts, bind_on_device=bind_on_device if device == "cuda" else None)
