"""Hostile files against scanners: what was published against picklescan, modelscan, fickling and weights_only, and kin of it.

Every payload only creates a marker file. Sources: the advisories of picklescan (GHSA-…), issues 85, 89, 330 and 338 of
modelscan, "PickleFuzzer" (arXiv 2605.15084), the nullifAI report.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


GOOD = asm.tensor((3,), (1,), asm.storage("0", 3))
HDF5 = b"\x89HDF\r\n\x1a\n" + bytes(96)
CODE, COMMAND, SCOPE = "code", "command", "scope"
NOWHERE = Path("marker")
"""Of payloads that are only named."""

# Functions that run what they are given, or load it, or get at what does. Arguments: the code, a command, a namespace.
PUBLISHED = (
    ("numpy.testing._private.utils", "runstring", CODE, SCOPE),
    ("pip", "main", COMMAND),
    ("pip._internal.cli.main", "main", COMMAND),
    ("ensurepip", "_run_pip", COMMAND),
    ("venv", "create", COMMAND),
    ("torch.utils.bottleneck.__main__", "run_cprofile", CODE, SCOPE),
    ("torch.utils.bottleneck.__main__", "run_autograd_prof", CODE, SCOPE),
    ("torch._dynamo.guards", "GuardBuilder.get", SCOPE, CODE),
    ("torch.fx.experimental.symbolic_shapes", "ShapeEnv.evaluate_guards_expression", SCOPE, CODE),
    ("torch.jit.unsupported_tensor_ops", "execWrapper", CODE, SCOPE, SCOPE),
    ("torch.utils._config_module", "ConfigModule.load_config", SCOPE, CODE),
    ("torch.utils.data.datapipes.utils.decoder", "basichandlers", CODE, CODE),
    ("torch.utils.collect_env", "run", COMMAND),
    ("torch._inductor.codecache", "compile_file", COMMAND),
    ("torch.storage", "_load_from_bytes", CODE),
    ("torch.utils.model_zoo", "load_url", COMMAND),
    ("lib2to3.pgen2.grammar", "Grammar.loads", SCOPE, CODE),
    ("lib2to3.pgen2.pgen", "ParserGenerator.make_label", SCOPE, CODE),
    ("idlelib.pyshell", "ModifiedInterpreter.runcommand", SCOPE, CODE),
    ("idlelib.run", "Executive.runcode", SCOPE, CODE),
    ("idlelib.autocomplete", "AutoComplete.get_entity", SCOPE, CODE),
    ("idlelib.calltip", "get_entity", CODE),
    ("idlelib.debugobj", "ObjectTreeItem.SetText", SCOPE, CODE),
    ("bdb", "Bdb.run", SCOPE, CODE),
    ("pdb", "run", CODE),
    ("cProfile", "runctx", CODE, SCOPE, SCOPE),
    ("profile", "run", CODE),
    ("trace", "Trace.run", SCOPE, CODE),
    ("timeit", "timeit", CODE, CODE),
    ("doctest", "debug_script", CODE),
    ("code", "InteractiveInterpreter.runcode", SCOPE, CODE),
    ("runpy", "_run_code", CODE, SCOPE),
    ("pydoc", "pipepager", CODE, COMMAND),
    ("pydoc", "locate", COMMAND),
    ("pkgutil", "resolve_name", COMMAND),
    ("importlib", "import_module", COMMAND),
    ("asyncio.unix_events", "_UnixSubprocessTransport._start", SCOPE, COMMAND),
    ("multiprocessing.util", "spawnv_passfds", COMMAND),
    ("_pyrepl.pager", "pipe_pager", CODE, COMMAND),
    ("_osx_support", "_read_output", COMMAND),
    ("_aix_support", "_read_cmd_output", COMMAND),
    ("uuid", "_get_command_stdout", COMMAND),
    ("imaplib", "IMAP4_stream", COMMAND),
    ("mailcap", "findmatch", SCOPE, COMMAND),
    ("test.support.script_helper", "assert_python_ok", COMMAND),
    ("distutils.file_util", "write_file", COMMAND, SCOPE),
    ("numpy.f2py.crackfortran", "getlincoef", CODE, SCOPE),
    ("ssl", "get_server_certificate", COMMAND),
    ("urllib.request", "urlopen", COMMAND),
    ("logging", "FileHandler", COMMAND),
    ("_io", "FileIO", COMMAND, CODE),
    ("ctypes", "CDLL", COMMAND),
    ("pty", "spawn", COMMAND),
    ("marshal", "loads", CODE),
    ("types", "CodeType", CODE),
    ("cloudpickle.cloudpickle", "_make_function", CODE),
    ("functools", "partial", COMMAND),
    ("mlflow.projects.backend.local", "_run_entry_point", COMMAND),
    ("pandas.io.parsers.readers", "read_csv", COMMAND),
    ("transformers.models.auto.auto_factory", "getattribute_from_module", COMMAND),
    # Nobody listed these.
    ("innocent.helpers", "prepare", CODE),
    ("colorsys", "rgb_to_hsv", COMMAND),
    ("my_company.layers", "restore", SCOPE),
    ("sklearn.tree._tree", "Tree", SCOPE),
)

CONTAINERS: dict[str, Callable[[bytes], bytes]] = {
    "npy": asm.npy_of,
    "npz": lambda made: asm.zip_of({"weights.npy": asm.npy_of(made)}),
    "deflated npz": lambda made: asm.zip_of({"weights.npy": asm.npy_of(made)}, zipfile.ZIP_DEFLATED),
    "pickle": lambda made: made,
    "torch zip": lambda made: asm.zip_of({"a/data.pkl": made, "a/data/0": bytes(12), "a/version": b"3\n"}),
    "another entry of a torch zip": lambda made: asm.zip_of(
        {"a/data.pkl": asm.pickle(asm.dict_of({"w": GOOD})), "a/data/0": bytes(12), "a/extra.pkl": made}
    ),
    "TorchScript's data": lambda made: asm.zip_of(
        {"m/data.pkl": made, "m/constants.pkl": asm.pickle(b")"), "m/code/x.py": b""}
    ),
    "exported program": lambda made: asm.zip_of(
        {"m/archive_format": b"pt2", "m/data/sample_inputs/model.pt": asm.zip_of({"a/data.pkl": made})}
    ),
    "zip, as a text": lambda made: asm.zip_of({"data/notes.txt": made, "data/readme.md": b"# Weights"}),
    "tar": lambda made: asm.tar_of({"run/weights.pkl": made}),
    "gzip": lambda made: gzip.compress(made, mtime=0),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda made: lzma.compress(made, lzma.FORMAT_ALONE),
    "zlib": zlib.compress,
    "tar in gzip in zip": lambda made: asm.zip_of({"w.tgz": gzip.compress(asm.tar_of({"w.pkl": made}), mtime=0)}),
    "HDF5": lambda made: HDF5 + bytes(40) + made + bytes(40),
    "Keras file": lambda made: asm.zip_of({"config.json": b"{}", "model.weights.h5": HDF5 + made}),
    "legacy": lambda made: b"".join(map(asm.pickle, (asm.number(asm.MAGIC), asm.number(1001), b"}"))) + made,
}


def files(marker: Path) -> dict[str, bytes]:
    """Return what it is → the bytes of a file that must be refused as unsafe."""
    return {
        **_published(marker),
        **{f"{name} in {where}": CONTAINERS[where](made) for name, made, where in _spread(_chains(marker))},
        **{f"{name}, then a command": made for name, made in differences(marker).items()},
        **dict(_arrays(marker)),
        **dict(_archives(marker)),
    }


def _published(marker: Path) -> dict[str, bytes]:
    values = {
        CODE: asm.text(f"open({str(marker)!r}, 'w')"),
        COMMAND: asm.text(f"touch {marker}"),
        SCOPE: asm.EMPTY_DICT,
    }
    bodies = {
        f"{module}.{name}": asm.pickle(_named(module, name) + asm.tuple_of(*map(values.get, given)) + asm.REDUCE, 4)
        for module, name, *given in PUBLISHED
    }
    return {f"{name} in {where}": CONTAINERS[where](made) for name, made, where in _spread(bodies)}


def _named(module: str, name: str) -> bytes:
    return asm.stack_glob(module, name)


def _spread(bodies: dict[str, bytes]) -> Iterator[tuple[str, bytes, str]]:
    """Yield each with a container, all containers in turn."""
    places = list(CONTAINERS)
    for index, (name, made) in enumerate(bodies.items()):
        yield name, made, places[index % len(places)]


def _chains(marker: Path) -> dict[str, bytes]:
    """Pickles that get at a function without naming it, change what is imported, or restore what acts by itself."""
    command = asm.tuple_of(asm.text(f"touch {marker}"))
    system = asm.glob("os", "system")
    empty = asm.dict_of({"_parameters": asm.EMPTY_DICT, "_modules": asm.EMPTY_DICT})
    ordered = asm.glob("collections", "OrderedDict")
    made = {
        "attrgetter of a module": asm.call("operator", "attrgetter", asm.text("system"))
        + asm.tuple_of(asm.call("builtins", "__import__", asm.text("os")))
        + asm.REDUCE
        + command
        + asm.REDUCE,
        "methodcaller of a located module": asm.call("operator", "methodcaller", asm.text("system"), asm.text("true"))
        + asm.tuple_of(asm.call("pydoc", "locate", asm.text("os")))
        + asm.REDUCE,
        "subclasses of object": asm.stack_glob("builtins", "print.__class__.__base__.__subclasses__") + b")R",
        "item of a gadget's globals": asm.stack_glob("builtins", "help.__init__.__builtins__.__getitem__")
        + asm.tuple_of(asm.text("eval"))
        + asm.REDUCE,
        "builtins by way of numpy": asm.stack_glob("builtins", "dict.get")
        + asm.tuple_of(asm.stack_glob("numpy", "__builtins__"), asm.text("exec"))
        + asm.REDUCE,
        "attribute set by a state": asm.stack_glob("numpy", "size")
        + asm.tuple_of(b"N", asm.dict_of({"shape": asm.stack_glob("numpy", "__builtins__")}))
        + asm.BUILD,
        "sys.modules overwritten": asm.glob("sys", "modules") + asm.text("json") + system + b"s",
        "sys.modules overwritten with data": asm.glob("sys", "modules") + asm.text("torch") + ordered + b"s",
        "sys.modules updated by a state": asm.glob("sys", "modules") + asm.dict_of({"json": ordered}) + asm.BUILD,
        "sys.path extended": asm.glob("sys", "path") + b"(" + asm.text("elsewhere") + b"e",
        "os.environ changed": asm.glob("os", "environ") + b"(" + asm.text("PATH") + asm.text("elsewhere") + b"u",
        "builtins overwritten": asm.stack_glob("builtins", "__dict__") + asm.text("len") + ordered + b"s",
        "an allowed class changed": ordered + asm.tuple_of(b"N", asm.dict_of({"keys": ordered})) + asm.BUILD,
        "an allowed function changed": asm.glob("torch._utils", "_rebuild_tensor_v2")
        + asm.dict_of({"__defaults__": b"N"})
        + asm.BUILD,
        "a class of numpy's changed": asm.glob("numpy", "ndarray") + asm.dict_of({"__doc__": b"N"}) + asm.BUILD,
        "a set of a module's added to": asm.glob("innocent", "REGISTRY") + b"(" + asm.text("x") + b"\x90",
        "memo poisoned": asm.text("collections") + b"q\x00" + asm.text("OrderedDict") + b"q\x01\x93"
        + asm.text("os") + b"q\x00" + b"0" + asm.text("system") + b"q\x01" + b"0"
        + b"h\x00h\x01\x93" + command + asm.REDUCE,
        "memo by three instructions": asm.text("os") + b"p7\n0" + asm.text("system") + b"r\x08\x00\x00\x000"
        + b"g7\nj\x08\x00\x00\x00\x93" + command + asm.REDUCE,
        "names as bytes of Python 2": b"U\x02osU\x06system\x93" + command + asm.REDUCE,
        "INST": asm.MARK + asm.text(f"touch {marker}") + b"iinnocent\nrun\n",
        "INST without a mark": b"iantigravity\nrun\n",
        "OBJ": asm.MARK + asm.glob("innocent", "run") + asm.text(f"touch {marker}") + b"o",
        "NEWOBJ_EX": asm.glob("innocent", "Run") + b")" + asm.dict_of({"command": b"N"}) + b"\x92",
        "NEWOBJ with arguments": asm.glob("innocent", "Run") + command + asm.NEWOBJ + empty + asm.BUILD,
        "registry of extensions": b"\x82\x07" + command + asm.REDUCE,
        "base of a reconstructor": asm.call(
            "copyreg", "_reconstructor", ordered, asm.glob("subprocess", "Popen"), asm.text(f"touch {marker}")
        ),
        "a class of an old model, called": asm.tuple_of(asm.text("module"), system, b"N", b"N") + b"Q" + command + b"R",
        "what was called, called again": asm.call("innocent", "find") + command + asm.REDUCE,
        "an object that appends": asm.glob("innocent", "Queue") + b")\x81" + asm.text(f"touch {marker}") + b"a",
        "files that an object writes when it goes": asm.glob("dbm.dumb", "_Database")
        + b")\x81"
        + asm.dict_of({"_parameters": asm.EMPTY_DICT, "_modules": asm.EMPTY_DICT, "_modified": b"\x88",
                       "_dirfile": asm.text(str(marker)), "_bakfile": asm.text("x"), "_index": asm.EMPTY_DICT})
        + asm.BUILD,
        "a model with a function of somebody's": asm.glob("my_models", "Net")
        + b")\x81"
        + asm.dict_of({"_parameters": b"}", "_modules": b"}", "activation": asm.glob("my_models", "activation")})
        + asm.BUILD,
        "a model beside an object of somebody's": asm.dict_of(
            {"model": asm.glob("my_models", "Net") + b")\x81" + empty + asm.BUILD,
             "args": asm.glob("argparse", "Namespace") + b")\x81" + asm.EMPTY_DICT + asm.BUILD}
        ),
        "nothing but a name": asm.glob("innocent", "run"),
    }  # fmt: skip
    return {name: asm.pickle(body, 4) for name, body in made.items()}


def differences(marker: Path) -> dict[str, bytes]:
    """Pickles that unpicklers read on, where pickletools or a stricter reader stops; all of them run a command.

    No protocol stands before them, so that they have to be recognised by what they do.
    """
    begins = {
        "a number of base 16": b"I0x10\n0",
        "a long number of base 16": b"L0x10L\n0",
        "a number with an underscore": b"I1_0\n0",
        "a text that is not ASCII": b"V\xc3\xa9\xff\n0",
        "a buffer made read-only": b"C\x02ab\x980",
        "a state for a list": b"]Nb0",
        "a state for nothing": b"NNb0",
        "items for a text": b"\x8f(\x900",
        "a key that is a tuple of tuples": b"})\x85\x85Ns0",
        "an array without its data": asm.call("numpy", "dtype", asm.text("f8"), b"\x89", b"\x88") + b"0",
        "a device that is none": asm.call("collections", "OrderedDict", asm.EMPTY_DICT) + b"0",
        "a class with keywords": b")0",
        "a whole pickle": b"N.",
        "two whole pickles": b"K\x01.].",
        "the name of GGUF": b"GGUF\x03\x00\x00\x00\x000",
        "the mark of a tar archive": b"X" + struct.pack("<I", 300) + b"a" * 252 + b"ustar\x0000" + b"a" * 40 + b"0",
        "a header of safetensors": b"N0X\x0f\x00\x00\x00\x00" + b'{"a": 1}'.ljust(14) + b"0",
        "a line of a mebibyte": b"V" + b"a" * 2**20 + b"\n0",
        "a number of a hundred thousand digits": b"I0x" + b"0" * 100_000 + b"1\n0",
        "a frame that is none": b"\x95\x01\x00\x00\x00\x00\x00\x00\x00N0",
    }
    return {name: begin + asm.shell(marker) + asm.STOP for name, begin in begins.items()}


def _arrays(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Arrays of numpy's that are more than numbers, or that numpy would read where nothing is."""
    evil = asm.pickle(asm.shell(marker), 4)
    for descr in ("'O'", "'object'", "'=O'", '"|O"', "[('a', 'O')]", "[('a', [('b', '<f4'), ('c', '|O', (2,))])]"):
        yield f"array of {descr}", asm.npy_of(evil, descr)
    yield "array of version 2", asm.npy_of(evil, version=2)
    yield "array of version 3", asm.npy_of(evil, version=3)
    yield "a second array behind numbers", asm.npy_of(bytes(4), "'<f4'") + asm.npy_of(evil)
    yield "a pickle behind numbers", asm.npy_of(bytes(4), "'<f4'") + evil
    yield "a pickle behind an array's pickle", asm.npy_of(_array(b"]Na") + evil)
    dtype = asm.call("numpy", "dtype", asm.text("O8"), b"\x89", b"\x88")
    address = asm.call("numpy", "dtype", asm.text("V8"), b"\x89", b"\x88")
    fields = asm.dict_of({"f": asm.tuple_of(dtype, asm.number(0))})
    state = (asm.number(3), asm.text("|"), b"N", asm.tuple_of(asm.text("f")), fields, asm.number(8), asm.number(1))
    yield (
        "numbers taken for addresses",
        asm.npy_of(_array(asm.text("x" * 8), dtype=address + asm.tuple_of(*state, asm.number(0)) + asm.BUILD)),
    )
    yield "objects made of bytes", asm.npy_of(_array(asm.text("x" * 8)))
    yield "more objects than an array has", asm.npy_of(_array(b"](NNNe"))
    yield (
        "a number that is an object",
        asm.npy_of(asm.pickle(asm.call("numpy.core.multiarray", "scalar", dtype, asm.text("x")), 4)),
    )
    yield (
        "an array of somebody's class",
        asm.npy_of(
            asm.pickle(
                asm.call(
                    "numpy._core.multiarray",
                    "_reconstruct",
                    asm.glob("innocent", "Array"),
                    asm.tuple_of(asm.number(0)),
                    b"N",
                ),
                4,
            )
        ),
    )
    yield "an array of a tebibyte", asm.npy_of(
        asm.pickle(
            asm.call(
                "numpy._core.multiarray", "_reconstruct", asm.glob("numpy", "ndarray"), asm.tuple_of(asm.number(2**40)),
                asm.text("b"),
            ),
            4,
        )
    )  # fmt: skip


def _array(held: bytes, dtype: bytes | None = None) -> bytes:
    """Return the pickle of an array of one object, or of another dtype, as numpy writes it."""
    plain = asm.call("numpy", "dtype", asm.text("O8"), b"\x89", b"\x88")
    empty = asm.call(
        "numpy._core.multiarray",
        "_reconstruct",
        asm.glob("numpy", "ndarray"),
        asm.tuple_of(asm.number(0)),
        asm.text("b"),
    )
    state = asm.tuple_of(asm.number(1), asm.tuple_of(asm.number(1)), dtype or plain, b"\x89", held)
    return asm.pickle(empty + state + asm.BUILD, 4)


def _archives(marker: Path) -> Iterator[tuple[str, bytes]]:
    """Archives that nobody looks into, that are read in two ways, and that hide something."""
    evil = asm.pickle(asm.shell(marker), 4)
    both = {"a.txt": b"text", "w.pkl": evil}
    for name, magic in (
        ("7z", b"7z\xbc\xaf\x27\x1c\x00\x04"),
        ("Zstandard", b"\x28\xb5\x2f\xfd\x24"),
        ("RAR", b"Rar!\x1a\x07\x01\x00"),
        ("LZ4", b"\x04\x22\x4d\x18\x64"),
    ):
        yield name, magic + bytes(20) + evil
        yield f"{name} in a zip", asm.zip_of({f"weights.{name}": magic + bytes(20) + evil})
    yield "zip packed by bzip2", asm.zip_of(both, zipfile.ZIP_BZIP2)
    yield "zip packed by LZMA", asm.zip_of(both, zipfile.ZIP_LZMA)
    yield "zip packed by Zstandard", asm.packed_by(asm.zip_of(both), 93)
    yield "zip that says it is encrypted", asm.flagged(asm.zip_of({"w.txt": b"harmless"}), 0x1)
    yield "zip with a wrong checksum", asm.zip_of(both).replace(evil, evil.replace(b"touch", b"TOUCH"))
    yield "zip with an entry that is not listed", asm.unlisted({**both, "z.txt": b"text"}, "w.pkl")
    yield "zip with its last entry not listed", asm.unlisted(both, "w.pkl")
    yield "zip with bytes behind its end", asm.zip_of({"a/data.pkl": evil, "a/version": b"3"}) + b"x"
    yield "zip behind a picture", asm.shifted(asm.zip_of(both), b"\x89PNG\r\n\x1a\n" + bytes(60))
    yield "zip with fewer entries than its directory", _with_count(asm.zip_of(both), 1)
    yield "zip that unpacks to more than it says", _with_size(asm.zip_of({"w.txt": b"a" * 9}, zipfile.ZIP_DEFLATED), 3)
    yield "zip in zip in zip in zip in zip in zip", _wrapped(evil, 6)
    yield "two gzip streams", gzip.compress(b"N.", mtime=0) + gzip.compress(evil, mtime=0)
    yield "two bzip2 streams", bz2.compress(b"N.") + bz2.compress(evil)
    yield "gzip with a wrong checksum", gzip.compress(evil, mtime=0)[:-8] + bytes(8)
    yield "gzip that is cut off behind the pickle", gzip.compress(evil + bytes(2**20), 1, mtime=0)[:-20]
    yield "tar behind the end of a tar", asm.tar_of({"a.txt": b"text"}) + asm.tar_of({"w.pkl": evil})
    yield "tar of before POSIX", asm.old_tar(asm.tar_of({"pickle": evil}))
    yield "tar with a sparse file", _sparse_tar(evil)
    yield "tar with a file of no known type", _typed_tar(evil, b"9")


def _with_count(whole: bytes, count: int) -> bytes:
    data = bytearray(whole)
    struct.pack_into("<2H", data, data.rfind(b"PK\x05\x06") + 8, count, count)
    return bytes(data)


def _with_size(whole: bytes, size: int) -> bytes:
    data = bytearray(whole)
    struct.pack_into("<L", data, data.rfind(b"PK\x03\x04") + 22, size)
    struct.pack_into("<L", data, data.rfind(b"PK\x01\x02") + 24, size)
    return bytes(data)


def _wrapped(content: bytes, times: int) -> bytes:
    for _ in range(times):
        content = asm.zip_of({"inner.zip": content})
    return content


def _typed_tar(content: bytes, kind: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as made:
        info = tarfile.TarInfo("w.pkl")
        info.size, info.type = len(content), kind
        made.addfile(info)
        made.fileobj.write(content + bytes(-len(content) % 512))
        made.offset += len(content) + -len(content) % 512
    return stream.getvalue()


def _sparse_tar(content: bytes) -> bytes:
    return _typed_tar(content, tarfile.GNUTYPE_SPARSE)


def many_files(path: Path) -> None:
    """Write an archive of more files than are looked at; the last is hostile."""
    with zipfile.ZipFile(path, "w") as made:
        for index in range(20_000):
            made.writestr(f"{index}.txt", b"text")
        made.writestr("w.pkl", asm.pickle(asm.shell(path), 4))


def much_content(path: Path) -> None:
    """Write an archive that unpacks to more bytes than are looked at; the last are hostile."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("a.bin", bytes(2**26))
        made.writestr("w.pkl", asm.pickle(asm.shell(path), 4))


def many_instructions(path: Path) -> None:
    """Write an archive of harmless pickles that together take long to read."""
    slow = asm.pickle(b"N0" * 500_000 + b"N", 4)
    path.write_bytes(asm.zip_of({f"{index}.pkl": slow for index in range(9)}, zipfile.ZIP_DEFLATED))


LIMITS = (many_files, much_content, many_instructions)


def sharded(folder: Path, marker: Path) -> Iterator[tuple[str, Path]]:
    """Yield indices of sharded checkpoints of which one file is hostile, and the others are not, or damaged."""
    import json

    import torch
    from safetensors.torch import save

    good = save({"a": torch.ones(2)})
    shell = asm.pickle(asm.shell(marker))
    hostile = {
        "torch zip": asm.zip_of({"s/data.pkl": shell, "s/version": b"3"}),
        "pickle": shell,
        "numpy": asm.npy_of(asm.pickle(asm.call("innocent", "run"), 4)),
        "7z": b"7z\xbc\xaf\x27\x1c" + bytes(40),
    }
    for index, (name, content) in enumerate(hostile.items()):
        for other, before in (("", good), (" behind one that is cut off", good[:-3])):
            place = folder / f"sharded-{index}-{len(before)}"
            place.mkdir()
            (place / "1.safetensors").write_bytes(before)
            (place / "2.bin").write_bytes(content)
            path = place / "model.safetensors.index.json"
            path.write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.bin"}}))
            yield f"{name} as a shard{other}", path
