"""The one rule for every pickle: what is not known to be data is refused. And what it would do, in words, where known."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError
from pipeline.weights.pickle_records import model_class

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pipeline.weights.pickles import Parsed

_CODE = "run Python code from the file"
_REACH = "reach into Python's own objects, to find a function that runs commands"
_HARMS = {
    "run a command of the operating system": (
        "os", "posix", "nt", "subprocess", "commands", "pty", "popen2", "_posixsubprocess", "multiprocessing", "asyncio",
        "distutils", "setuptools", "torch.utils.cpp_extension", "torch.utils.collect_env", "numpy.f2py", "numpy.distutils",
        "torch.distributed.run", "torch.distributed.elastic", "uuid", "platform", "sysconfig", "site", "venv", "ensurepip",
        "mailcap", "_osx_support", "_aix_support", "_pyrepl",
    ),
    _CODE: (
        "code", "codeop", "timeit", "profile", "cProfile", "pdb", "bdb", "trace", "doctest", "runpy", "imp", "importlib",
        "pkgutil", "zipimport", "idlelib", "pydoc", "unittest", "test", "lib2to3", "pip", "numpy.testing", "torch.jit",
        "torch._dynamo", "torch._inductor", "torch.fx", "torch.testing", "torch.package", "logging.config", "types",
        "IPython", "jinja2", "sqlite3", "threading", "_thread", "atexit", "signal", "sched", "concurrent", "torch.onnx",
        "torch.utils.bottleneck", "torch.utils.data.datapipes", "torch.utils._config_module", "turtledemo",
    ),
    "load another pickle, without any check": (
        "pickle", "_pickle", "cPickle", "pickletools", "marshal", "dill", "joblib", "cloudpickle", "shelve",
        "torch.serialization", "torch.load", "pandas", "numpy.load", "torch.export", "torch.storage._load_from_bytes",
    ),
    "open a network connection": (
        "socket", "ssl", "urllib", "http", "ftplib", "smtplib", "poplib", "imaplib", "telnetlib", "nntplib", "xmlrpc",
        "requests", "httpx", "aiohttp", "urllib3", "webbrowser", "socketserver", "wsgiref", "torch.hub", "antigravity",
        "huggingface_hub", "fsspec",
    ),
    "read, write or delete files": (
        "shutil", "io", "_io", "pathlib", "tempfile", "fileinput", "glob", "tarfile", "zipfile", "bz2", "gzip", "lzma",
        "linecache", "mmap", "dbm", "configparser", "logging", "numpy.save", "numpy.fromfile", "numpy.memmap", "numpy.savetxt",
        "torch.save", "torch.from_file", "codecs", "builtins.open",
    ),
    "run machine code": ("ctypes", "_ctypes", "cffi", "torch.ops", "torch.classes", "numba", "torch._ops"),
    _REACH: (
        "sys", "gc", "inspect", "operator", "_operator", "functools", "itertools", "builtins.getattr", "builtins.setattr",
        "builtins.delattr", "builtins.globals", "builtins.locals", "builtins.vars", "builtins.map", "builtins.filter",
        "builtins.apply", "builtins.type", "builtins.super", "builtins.classmethod", "builtins.staticmethod",
        "builtins.property", "builtins.dir", "builtins.memoryview", "builtins.zip", "builtins.iter", "builtins.next",
    ),
}  # fmt: skip
# builtins that run code are told apart from harmless types such as builtins.list and builtins.object.
_BUILTIN_CODE = ("eval", "exec", "execfile", "compile", "__import__", "input", "breakpoint", "help", "reload", "exit")

_HARM_OF = {prefix: harm for harm, prefixes in _HARMS.items() for prefix in prefixes} | {
    f"builtins.{name}": _CODE for name in _BUILTIN_CODE
}
_HINT = (
    "do not load it anywhere, least of all with weights_only=False; a maker you trust can give you the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)
_ABOUT = "unsafe-pickle"
_PROGRAM_CLASS = re.compile(r"__torch__(\.\w+)+")
_NAME = re.compile(r"[\w.-]*\w")
# Functions that a network keeps as its activation: to name them imports torch.
_ACTIVATIONS = ("torch.nn.functional", "torch._C._nn")


def harm_of(dotted: str) -> str | None:
    """Return what a known dangerous global does, in words; None for one that is merely unknown."""
    parts = dotted.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    if parts[-1].startswith("__") and parts[-1].endswith("__"):
        return _REACH
    return next((_HARM_OF[prefix] for prefix in prefixes if prefix in _HARM_OF), None)


def runs(foreign: Mapping[str, str]) -> bool:
    """Tell whether a pickle that breaks off has done more up to there than a text that reads as one: a list of words."""
    return any(
        how in ("makes", "calls") or (how == "changes" and is_module(dotted.rpartition(".")[0])) or harm_of(dotted)
        for dotted, how in importable(foreign).items()
    )


def importable(foreign: Mapping[str, str]) -> dict[str, str]:
    """Return the globals whose names can be of something; a text names sentences."""
    return {dotted: how for dotted, how in foreign.items() if _NAME.fullmatch(dotted)}


def is_module(name: str) -> bool:
    """Tell whether a name is likely one of a module: Python's own, or one with a package."""
    parts = name.split(".")
    return parts[0] in sys.stdlib_module_names or (len(parts) > 1 and all(part.isidentifier() for part in parts))


def require_harmless(foreign: Mapping[str, str], name: str, own: Collection[str] = ()) -> None:
    """Refuse a pickle with any global outside the allow-list; `foreign` maps each to the most that is done with it.

    Of a pickled model, which is described and never run, `own` are the classes that it makes networks of; they are let
    through unless they are Python's own or known to do harm. Raises UnsafeError naming the worst global and what it would
    have done.
    """
    strange = {dotted: how for dotted, how in foreign.items() if not (own and _is_of_model(dotted, how, own))}
    for dotted, how in strange.items():
        known = harm_of(dotted)
        if known is not None:
            verb = "would" if how != "names" else "names it, and could"
            told = f"{name} is hostile: {dotted!r:.120} {verb} {known} as soon as it is loaded"
            raise UnsafeError(told, hint=_HINT, about=_ABOUT)
    if strange:
        dotted, how = max(strange.items(), key=lambda item: tuple(_DOES).index(item[1]))
        raise UnsafeError(
            f"{name} is refused: loading it would need {dotted!r:.120}, which is not data; it would {_DOES[how]}",
            hint=_HINT,
            about=_ABOUT,
        )


def require_data(parsed: Parsed, name: str, *, program: bool = False) -> None:
    """Refuse what is not data but the classes of a pickled model, and of a TorchScript program (`program`).

    Raises UnsafeError as `require_harmless`.
    """
    is_model = model_class(parsed.value) is not None
    foreign = beside_programs(parsed.foreign) if program else parsed.foreign
    require_harmless(foreign, name, parsed.own if is_model else ())


def beside_programs(foreign: Mapping[str, str]) -> dict[str, str]:
    """Leave out the classes that a TorchScript program defines, and Python has not."""
    return {dotted: how for dotted, how in foreign.items() if how == "changes" or not _PROGRAM_CLASS.fullmatch(dotted)}


_DOES = {
    "names": "import its module",
    "makes": "import its module and make an object of it",
    "changes": "import its module and change what is in there",
    "calls": "call this function, whatever it does",
}


def _is_of_model(dotted: str, how: str, own: Collection[str]) -> bool:
    module, _, function = dotted.rpartition(".")
    is_activation = how == "names" and module in _ACTIVATIONS and function.isidentifier()
    top = dotted.partition(".")[0]
    is_own = dotted in own and top not in sys.stdlib_module_names and harm_of(dotted) is None
    return is_activation or is_own
