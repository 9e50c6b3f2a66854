"""The kinds of file that people bring: what each is, and what to do with one that is no state dict."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

SAVE = "torch.save(model.state_dict(), 'weights.pth')"
"""How to save the weights alone."""

_UNPACK = "unpack it, and run weighbridge inspect on the weights file inside"


class Kind(StrEnum):
    """A kind of file: its value is what messages call it, `explanation` says what it is.

    `remedy` says what to do with a file that is no state dict.
    """

    explanation: str
    remedy: str

    def __new__(cls, name: str, explanation: str, remedy: str = "") -> Self:
        """Return the kind called `name`."""
        kind = str.__new__(cls, name)
        kind._value_, kind.explanation, kind.remedy = name, explanation, remedy
        return kind

    STATE_DICT = "state dict", "Named tensors saved with torch.save: the weights, without the network's code."
    STATE_DICT_LEGACY = (
        "state dict (legacy format)",
        "Named tensors saved with torch.save in the format before torch 1.6: the weights, without code.",
    )
    WRAPPED = (
        "checkpoint with a state dict inside",
        "A training checkpoint: a state dict with other things around it.",
    )
    SEVERAL = (
        "checkpoint with several state dicts",
        "A training checkpoint with several state dicts: which one is the network's, only its maker can tell.",
        "say which one is meant",
    )
    PICKLED_MODEL = (
        "whole pickled model",
        "A whole model saved as Python objects: it loads only with its code, and loading it runs code.",
        f"whoever made it can save its weights alone, in the code that made it: {SAVE}",
    )
    TORCH_OBJECT = (
        "torch file without a state dict",
        "Something saved with torch.save that holds no state dict.",
        f"save the network's state dict: {SAVE}",
    )
    PICKLE = (
        "pickle that torch.save did not write",
        "A pickle written by something other than torch.save.",
        f"save the weights with torch.save, not with pickle: {SAVE}",
    )
    TORCHSCRIPT = (
        "TorchScript program",
        "A TorchScript program: weights and code; it runs without the Python that made it.",
        (
            "in the code that made it, save the weights beside it: torch.save(module.state_dict(), "
            "'weights.pth'); to compare the program itself, use weighbridge parity CONFIG --candidate FILE"
        ),
    )
    EXPORTED_PROGRAM = (
        "exported program (.pt2)",
        "A program saved by torch.export.save; loading it can run code from the file.",
        "in the code that made it, save the weights beside it: torch.save(program.state_dict, 'weights.pth')",
    )
    AOTINDUCTOR = (
        "AOTInductor package (.pt2)",
        "A network compiled by torch's AOTInductor: machine code with its weights; loading it runs it.",
        "in the code that made it, save the weights: torch.save(program.state_dict, 'weights.pth')",
    )
    ONNX = (
        "ONNX model",
        "An ONNX model: a graph with its weights, which onnxruntime runs.",
        (
            "a release is made from the state dict that it was exported from (.pth or .safetensors); to compare "
            "this file with the network, use weighbridge parity CONFIG --candidate FILE"
        ),
    )
    EXECUTORCH = (
        "ExecuTorch program",
        "An ExecuTorch program (.pte): a plan of operators with its weights, which ExecuTorch's runtime follows without checking all of it.",
        "a release is made from the state dict that it was exported from (.pth or .safetensors)",
    )
    OPENVINO = (
        "OpenVINO model",
        "An OpenVINO model: its layers; the weights lie in the .bin beside it.",
        (
            "a release is made from the state dict that it was exported from (.pth or .safetensors); to compare "
            "this file with the network, use weighbridge parity CONFIG --candidate FILE"
        ),
    )
    SAFETENSORS = "safetensors", "Named tensors in the safetensors format: the weights, without the network's code."
    SHARDED = "index of a sharded checkpoint", "The index of a state dict that is spread over several files."
    NUMPY = (
        "numpy arrays",
        "numpy arrays.",
        (
            "convert it: torch.save({name: torch.from_numpy(array) for name, array in numpy.load(file, "
            "allow_pickle=False).items()}, 'weights.pth')"
        ),
    )
    HDF5 = (
        "HDF5 or Keras file",
        "An HDF5 file, as Keras and h5py write; what is compressed in it was not looked at.",
        "Keras weights do not carry over by themselves: convert them to a PyTorch state dict first",
    )
    TENSORFLOW = (
        "TensorFlow SavedModel",
        "The graph of a TensorFlow SavedModel; its weights lie in the folder variables/.",
        "TensorFlow weights do not carry over by themselves: convert them to a PyTorch state dict first",
    )
    GGUF = (
        "GGUF model",
        "A GGUF model for llama.cpp, usually quantised.",
        "take the original .safetensors that it was quantised from",
    )
    TAR = "tar archive", "A tar archive; it was not unpacked.", _UNPACK
    ZIP = "zip archive", "A zip archive that torch.save did not write.", _UNPACK
    SEALED = "archive of a kind that is not looked into", "An archive of a kind that is not looked into.", _UNPACK
    GZIP = "compressed file", "A compressed file; it was not unpacked.", _UNPACK
    LFS_POINTER = (
        "Git LFS pointer",
        "A Git LFS pointer: it stands for a file that was not downloaded.",
        "it only names the weights: fetch them with `git lfs pull`",
    )
    HTML = (
        "HTML page",
        "A web page saved in place of a file, often a login or error page.",
        "a web page was saved in place of the weights, often a login page: download the file itself",
    )
    TEXT = "text file", "A text file.", "name the weights file (.pth, .pt or .safetensors)"
    EMPTY = "empty file", "An empty file.", "the copy or download failed, or saving never ended: get it again"
    TRUNCATED = (
        "truncated file",
        "A file that was cut off: its end is missing.",
        "it was cut off on its way: copy or download it again",
    )
    UNKNOWN = (
        "unknown file",
        "Of no kind that weighbridge knows.",
        "name a state dict saved with torch.save or safetensors",
    )


STATE_DICTS = frozenset({Kind.STATE_DICT, Kind.STATE_DICT_LEGACY, Kind.WRAPPED, Kind.SAFETENSORS, Kind.SHARDED})
"""Files with one state dict."""
PROGRAMS = frozenset({Kind.TORCHSCRIPT, Kind.EXPORTED_PROGRAM, Kind.AOTINDUCTOR})
"""Archives with code."""


def with_article(kind: Kind) -> str:
    """Return "a state dict", "an ONNX model"."""
    return f"{'an' if kind[0].lower() in 'aeio' or kind in (Kind.HTML, Kind.HDF5, Kind.UNKNOWN) else 'a'} {kind}"
