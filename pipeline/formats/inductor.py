"""What everything compiled by torch's Inductor needs: a C++ compiler, a folder that keeps what was compiled, an error in one line.

Sources: torch/_inductor/cpp_builder.py (`get_cpp_compiler`), torch/_inductor/config.py (`cpp.cxx`, `compile_threads`) and
torch/_inductor/runtime/cache_dir_utils.py of torch 2.13.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from importlib import util
from pathlib import Path

from pipeline.errors import UnavailableError

INSTALL = "weighbridge[cpu] and a C++ compiler: apt install g++, or name one that is there in the variable CXX"
FOLDER_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
_USUAL = "clang++" if sys.platform == "darwin" else "g++"
_OTHERS = ("g++", "clang++", "c++")
_ANSWER_S = 10.0
_SHOWN_CHARACTERS = 240
_COMPILER_SAYS = re.compile(r"^.*?\b((?:fatal )?error: .+)$", re.MULTILINE)
_FAKE_TENSOR_SAYS = re.compile(r"got (\w+\(.+\))")


def probe(*, with_python: bool = False) -> str | None:
    """Return None if torch is here, and a C++ compiler that answers where Inductor looks for one; else the reason.

    `with_python`: what is compiled becomes a module of Python's, which takes its header files.
    """
    if util.find_spec("torch") is None:
        return "torch is not installed"
    if reason := compiler()[1]:
        return reason
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if with_python and not header.is_file():
        return f"{header} is not there, which what torch.compile makes includes (apt install python3-dev)"
    return None


def command() -> str:
    """Return what Inductor calls as the C++ compiler."""
    return os.environ.get("CXX") or _USUAL


def compiler() -> tuple[str, str | None]:
    """Return what the C++ compiler that Inductor will call says of its version, and why there is none (None if there is).

    Inductor calls what CXX names, else g++ (on macOS clang++), and nothing else. Whether a compiler works is asked once for each name.
    """
    wanted = command()
    if version := _version(wanted):
        return version, None
    named = "the variable CXX names" if os.environ.get("CXX") else "torch's Inductor calls"
    told = f"no C++ compiler: {named} {wanted}, which does not answer"
    if other := next((each for each in _OTHERS if each != wanted and _version(each)), None):
        return "", f"{told}; {other} does, so CXX={other} would do"
    return "", told


@cache
def _version(command: str) -> str:
    """Return the first line of what `command --version` prints, "" if it cannot be run."""
    if not shutil.which(command):
        return ""
    try:
        ran = subprocess.run([command, "--version"], capture_output=True, timeout=_ANSWER_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return next(iter(ran.stdout.decode(errors="replace").splitlines()), command)


def prepare() -> Path:
    """Set this process up for Inductor; return the folder that keeps what it compiles.

    That is TORCHINDUCTOR_CACHE_DIR where it is set. Otherwise it lies below the user's own cache, since what is in it is executed: torch's default is
    a folder with a fixed name in /tmp, which anybody on the machine may have made before. Processes may share it: torch writes each file whole, and
    locks what is being compiled. Nothing is compiled in processes of Inductor's own: a worker may not leave any behind.

    Raises:
        UnavailableError: there is no folder that Inductor could use.
    """
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
    from torch._dynamo import config as dynamo
    from torch._inductor import codecache, config
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # torch itself sets the variable to its default once it has looked for the folder.
    if os.environ.get(FOLDER_VARIABLE) in {None, "", default_cache_dir()}:
        os.environ[FOLDER_VARIABLE] = str(_own_folder())
    config.compile_threads = 1  # what imported it before may have read another number
    # Compiled or an error: never eager without a word, however the environment is set.
    dynamo.suppress_errors = False
    dynamo.fail_on_recompile_limit_hit = True
    folder = Path(os.environ[FOLDER_VARIABLE])
    if _has_space(folder):
        raise UnavailableError(
            f"{FOLDER_VARIABLE} names {folder}, and Inductor can compile in no folder with a space in its path",
            hint=f"let {FOLDER_VARIABLE} name another folder",
        )
    # Headers are compiled once, in ten seconds or more; torch keeps them in its default folder, whatever it was told.
    codecache._HEADER_DIR = str(folder / "precompiled_headers")  # noqa: SLF001 - there is no setting for it
    return folder


def _own_folder() -> Path:
    kept = os.environ.get("XDG_CACHE_HOME")
    root = Path(kept) if kept and Path(kept).is_absolute() else Path.home() / ".cache"
    try:
        if not _has_space(root):
            return _private(root / "weighbridge" / "inductor")
    except OSError:  # no home, or nothing can be written there
        pass
    try:
        return _private(Path(tempfile.gettempdir()) / f"weighbridge-inductor-{os.getuid()}")
    except OSError as error:
        raise UnavailableError(
            f"there is no folder for what Inductor compiles: {error}",
            hint=f"name one in the variable {FOLDER_VARIABLE}",
        ) from error


def _has_space(folder: Path) -> bool:
    """Tell whether Inductor would break a folder's path apart in the commands that it runs."""
    return any(each.isspace() for each in str(folder))


def _private(folder: Path) -> Path:
    """Make a folder that only this user writes to, and return it; raises OSError where that cannot be had."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022 or not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} can be written to by others, or not by this user")
    return folder


def first_line(error: BaseException) -> str:
    """Return what a failure of Inductor comes to, in one line: what the C++ compiler or an operator said, if one did."""
    told = str(error)
    for found in (_COMPILER_SAYS.search(told), _FAKE_TENSOR_SAYS.search(told)):
        if found:
            return found[1][:_SHOWN_CHARACTERS]
    inner: BaseException = getattr(error, "inner_exception", None) or error
    lines = [line.strip() for line in str(inner).splitlines() if line.strip()]
    return f"{type(inner).__name__}: {lines[0]}"[:_SHOWN_CHARACTERS] if lines else type(inner).__name__
