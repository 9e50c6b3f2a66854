"""What a foreign global in a pickle would do, in words, and which of them make a file hostile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import UnsafeError

if TYPE_CHECKING:
    from collections.abc import Mapping

_CODE = "run Python code from the file"
_REACH = "reach into Python's own objects, to find a function that runs commands"
_DEEDS = {
    "run a command of the operating system": (
        "os", "posix", "nt", "subprocess", "commands", "pty", "popen2", "_posixsubprocess", "multiprocessing", "asyncio",
        "distutils", "setuptools", "torch.utils.cpp_extension", "torch.utils.collect_env", "numpy.f2py", "numpy.distutils",
        "torch.distributed.run", "torch.distributed.elastic", "uuid", "platform", "sysconfig", "site", "venv",
    ),
    _CODE: (
        "code", "codeop", "timeit", "profile", "cProfile", "pdb", "bdb", "trace", "doctest", "runpy", "imp", "importlib",
        "pkgutil", "zipimport", "idlelib", "pydoc", "unittest", "test", "lib2to3", "pip", "numpy.testing", "torch.jit",
        "torch._dynamo", "torch._inductor", "torch.fx", "torch.testing", "torch.package", "logging.config", "types",
        "IPython", "jinja2", "sqlite3", "threading", "_thread", "atexit", "signal", "sched", "concurrent", "torch.onnx",
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
        "linecache", "mmap", "dbm", "configparser", "numpy.save", "numpy.fromfile", "numpy.memmap", "numpy.savetxt",
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

_DEED_OF = {prefix: deed for deed, prefixes in _DEEDS.items() for prefix in prefixes} | {
    f"builtins.{name}": _CODE for name in _BUILTIN_CODE
}
_HINT = (
    "do not load it anywhere, least of all with weights_only=False; a maker you trust can give you the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)


def deed(dotted: str) -> str | None:
    """Return what a known dangerous global does, in words; None for one that is merely unknown."""
    parts = dotted.split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    if parts[-1].startswith("__") and parts[-1] != "__builtins__":
        return _REACH
    return next((_DEED_OF[prefix] for prefix in prefixes if prefix in _DEED_OF), None)


def require_harmless(foreign: Mapping[str, str], name: str, *, is_model: bool) -> None:
    """Refuse a pickle with globals outside the allow-list; `foreign` maps each to "names", "makes" or "calls".

    A pickled model (`is_model`) may name and make classes of its own: it is never run, only described. Raises
    UnsafeError naming the worst global and what it would have done.
    """
    for dotted, how in foreign.items():
        known = deed(dotted)
        if known is not None:
            verb = "would" if how != "names" else "names it, and could"
            raise UnsafeError(f"{name} is hostile: {dotted!r:.120} {verb} {known} as soon as it is loaded", hint=_HINT)
    strange = {dotted: how for dotted, how in foreign.items() if how == "calls" or not is_model}
    if strange:
        dotted, how = max(strange.items(), key=lambda item: ("names", "makes", "calls").index(item[1]))
        does = {
            "calls": "call this function, whatever it does",
            "makes": "import its module and make an object of it",
            "names": "import its module",
        }
        raise UnsafeError(
            f"{name} is refused: loading it would need {dotted!r:.120}, which is not data; it would {does[how]}",
            hint=_HINT,
        )
