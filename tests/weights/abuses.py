"""Hostile files that hide behind what is let through: something that acts, in a checkpoint with tensors and inert objects."""

from __future__ import annotations

from pathlib import Path

from tests.weights import assembler as asm

NOWHERE = Path("marker")
GOOD = asm.tensor((3,), (1,), asm.storage("0", 3))
THING = asm.glob("innocent", "Thing") + b")" + asm.NEWOBJ
"""An object as a checkpoint may hold it."""


def file(body: bytes, protocol: int = 2) -> bytes:
    """Return a file of torch.save with a state dict, and something beside it."""
    saved = asm.dict_of({"state_dict": asm.dict_of({"fc.weight": GOOD}), "hyper_parameters": body})
    entries = {
        "a/data.pkl": asm.pickle(saved, protocol),
        "a/byteorder": b"little",
        "a/data/0": bytes(12),
        "a/version": b"3\n",
    }
    return asm.zip_of(entries)


def files(marker: Path) -> dict[str, bytes]:
    """Return what it is → the bytes of a file that must be refused as unsafe."""
    return {f"{name}, beside tensors": file(body) for name, body in bodies(marker).items()}


def bodies(marker: Path) -> dict[str, bytes]:
    """Return what stands where hyper-parameters would."""
    command = asm.text(f"touch {marker}")
    code = asm.text(f"open({str(marker)!r}, 'w')")
    given, system = asm.tuple_of(command), asm.glob("os", "system")
    items = b"](" + asm.number(1) * 9_999 + b"e"
    return {
        "a command in an object's state": THING + asm.dict_of({"x": asm.shell(marker)}) + asm.BUILD,
        "a command as an object's argument": asm.glob("innocent", "Thing") + asm.tuple_of(asm.shell(marker)) + asm.NEWOBJ,
        "a command as an item": THING + asm.text("x") + asm.shell(marker) + b"s",
        "a command as a key": THING + asm.shell(marker) + b"Ns",
        "a function of the system in an object's state": THING + asm.dict_of({"x": system}) + asm.BUILD,
        "an object that is called": THING + given + asm.REDUCE,
        "an object that makes another": THING + b")" + asm.NEWOBJ,
        "a member of an Enum that is called": asm.call("innocent", "Kind", asm.number(1)) + given + asm.REDUCE,
        "a function of somebody's": asm.call("innocent.helpers", "prepare", code),
        "a method of somebody's class": asm.stack_glob("innocent", "Thing.restore") + given + asm.REDUCE,
        "a class called with a function": asm.call("innocent", "Runner", asm.glob("innocent", "run"), command),
        "a class called with an object": asm.call("innocent", "Runner", THING),
        "a class called with a tensor": asm.call("innocent", "Runner", GOOD),
        "a class called with what is no tuple": asm.glob("innocent", "Runner") + b"](" + command + b"e" + asm.REDUCE,
        "a class of Python's own": asm.call("subprocess", "Popen", command),
        "a class of Python's own, made": asm.glob("logging", "FileHandler") + given + asm.NEWOBJ,
        "what writes when it goes": asm.glob("dbm.dumb", "_Database") + b")\x81" + asm.dict_of({"_modified": b"\x88"}) + b"b",
        "an unlisted class of Python's own": asm.glob("string", "Template") + b")\x81",
        "an unlisted class of torch's": asm.call("torch.package", "PackageImporter", command),
        "an unlisted class of numpy's": asm.call("numpy", "DataSource", command),
        "a defaultdict of a partial": asm.call("collections", "defaultdict", asm.call("functools", "partial", system, command)),
        "a defaultdict of a function of the system": asm.call("collections", "defaultdict", system),
        "a defaultdict with more": asm.call("collections", "defaultdict", b"N", asm.dict_of({"a": THING})),
        "a datetime of an object": asm.call("datetime", "datetime", THING),
        "a path that is opened": asm.stack_glob("pathlib", "Path.touch") + asm.tuple_of(asm.call("pathlib", "PosixPath", command)) + b"R",
        "a path that is called": asm.call("pathlib", "PosixPath", command) + given + asm.REDUCE,
        "a namespace that is called": asm.glob("argparse", "Namespace") + b")\x81" + given + asm.REDUCE,
        "an attribute that is got": asm.call("builtins", "getattr", asm.glob("innocent", "Thing"), asm.text("run")),
        "an attribute of a config": asm.call("operator", "attrgetter", asm.text("system")),
        "a type that is made": asm.call("builtins", "type", asm.text("X"), b")", asm.EMPTY_DICT),
        "code": asm.call("types", "CodeType", code),
        "a class that is changed": asm.glob("innocent", "Thing") + asm.dict_of({"x": b"N"}) + asm.BUILD,
        "a registry that is changed": asm.glob("innocent", "REGISTRY") + asm.text("x") + THING + b"s",
        "a list of a module's": asm.glob("innocent", "HOOKS") + THING + b"a",
        "INST": asm.MARK + command + b"iinnocent\nThing\n",
        "OBJ": asm.MARK + asm.glob("innocent", "Thing") + command + b"o",
        "NEWOBJ_EX": asm.glob("innocent", "Thing") + b")" + asm.dict_of({"command": command}) + b"\x92",
        "the base of a reconstructor": asm.call("copyreg", "_reconstructor", asm.glob("innocent", "Thing"), asm.glob("innocent", "Base"), command),
        "what a class hides": asm.stack_glob("innocent", "Thing.__init__.__globals__"),
        "what a class descends from": asm.stack_glob("innocent", "Thing.__class__.Base") + b")" + asm.REDUCE,
        "the script's builtins": asm.stack_glob("__main__", "__builtins__.Thing") + b")" + asm.NEWOBJ,
        "a registry of extensions": b"\x82\x07" + given + asm.REDUCE,
        "a pickle in a storage": asm.call("torch.storage", "_load_from_bytes", command),
        "a tensor that evades the checks": asm.glob("torch", "Tensor") + b")\x81"
        + asm.tuple_of(asm.storage("0", 3), asm.number(0), asm.tuple_of(asm.number(9)), asm.tuple_of(asm.number(1))) + asm.BUILD,
        "a tensor of an object": asm.tensor((3,), (1,), THING),
        "a tensor of somebody's class": asm.call(
            "torch._tensor", "_rebuild_from_type_v2", asm.glob("torch._utils", "_rebuild_tensor_v2"),
            asm.glob("innocent", "Thing"), b")", b"N",
        ),
        "an array of somebody's class": asm.call(
            "numpy.core.multiarray", "_reconstruct", asm.glob("innocent", "Array"), asm.tuple_of(asm.number(0)), asm.text("b")
        ),
        "a tensor past its storage, in an object": THING + asm.dict_of({"w": asm.tensor((9,), (1,), asm.storage("0", 3))}) + b"b",
        "a config of OmegaConf's with a command": asm.glob("omegaconf.dictconfig", "DictConfig") + b")\x81"
        + asm.dict_of({"_content": asm.dict_of({"a": asm.shell(marker)})}) + asm.BUILD,
        "a resolver of OmegaConf's": asm.call("omegaconf.omegaconf", "register_default_resolvers"),
        "an object known to do harm": asm.glob("joblib", "Memory") + b")\x81",
        "a class known to do harm, named": asm.glob("cffi", "FFI"),
        "a class of torch's known to do harm": asm.glob("torch.utils.data.datapipes.utils.decoder", "Decoder") + b")\x81",
        "objects in objects without end": THING * 9_000 + b"a" * 8_999,
        "many calls of classes with many arguments": items + b"q\x63" + (asm.glob("innocent", "Kind") + b"hc\x85R0") * 300,
    }  # fmt: skip
