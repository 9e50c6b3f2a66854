"""Networks asked for where a package makes them available, and packages that lie in a project's src folder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ArchitectureError, InputError, UnsafeError
from pipeline.rebuild import project
from pipeline.rebuild.trust import import_architecture, locate

if TYPE_CHECKING:
    from pathlib import Path

NET = "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self, width: int = 4):\n        super().__init__(width, 2)\n"
FACTORY = f"{NET}\n\ndef create(name='net', **rest) -> Net:\n    return Net(**rest)\n"
LAZY = (
    "import importlib\n\n\ndef __getattr__(name):\n"
    "    return getattr(importlib.import_module('.models.net', __name__), name)\n"
)


def make(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in [each for each in sys.modules if each.partition(".")[0].startswith("re_")]:
        del sys.modules[name]
    return tmp_path


@pytest.mark.parametrize(
    ("files", "asked", "found"),
    [
        ({"re_a/__init__.py": "from .net import Net\n", "re_a/net.py": NET}, "re_a:Net", "re_a.net:Net"),
        ({"re_a/__init__.py": "from .net import Net as Best\n", "re_a/net.py": NET}, "re_a:Best", "re_a.net:Net"),
        (
            {
                "re_a/__init__.py": "from .models import create as create_model\n",
                "re_a/models/__init__.py": "from ._factory import *\n",
                "re_a/models/_factory.py": f"__all__ = ['create']\n{FACTORY}",
            },
            "re_a:create_model",
            "re_a.models._factory:create",
        ),
        (
            {
                "re_a/__init__.py": "from .one import *\nfrom .two import *\n",
                "re_a/one.py": "class Other: ...\n",
                "re_a/two.py": "from .deep.three import *\n",
                "re_a/deep/__init__.py": "",
                "re_a/deep/three.py": "from ..net import *\n",
                "re_a/net.py": NET,
            },
            "re_a:Net",
            "re_a.net:Net",
        ),
        ({"re_a/__init__.py": "from . import net\n\nNet = net.Net\n", "re_a/net.py": NET}, "re_a:Net", "re_a.net:Net"),
        ({"re_a/__init__.py": "import re_a.net as n\n\nNet = n.Net\n", "re_a/net.py": NET}, "re_a:Net", "re_a.net:Net"),
        ({"re_a/__init__.py": "import re_a.net\n\nNet = re_a.net.Net\n", "re_a/net.py": NET}, "re_a:Net", "re_a.net:Net"),
        ({"re_a/__init__.py": "from .net import Net as _N\n\nNet = _N\n", "re_a/net.py": NET}, "re_a:Net", "re_a.net:Net"),
        ({"re_a/__init__.py": "from .net import *\n", "re_a/net.py": f"{NET}\n\nBest = Net\n"}, "re_a:Best", "re_a.net:Net"),
        (
            {
                "re_a/__init__.py": "try:\n    from .fast import Net\nexcept ImportError:\n    from .net import Net\n",
                "re_a/net.py": NET,
            },
            "re_a:Net",
            "re_a.net:Net",
        ),
        (
            {
                "re_a/__init__.py": "try:\n    from .net import Net\nexcept ImportError:\n    Net = None\n",
                "re_a/net.py": NET,
            },
            "re_a:Net",
            "re_a.net:Net",
        ),
        ({"re_a/__init__.py": LAZY, "re_a/models/__init__.py": "", "re_a/models/net.py": NET}, "re_a:Net", "re_a.models.net:Net"),
        (
            {
                "re_a/__init__.py": f"from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from .models.net import Net\n{LAZY}",
                "re_a/models/__init__.py": "",
                "re_a/models/net.py": NET,
            },
            "re_a:Net",
            "re_a.models.net:Net",
        ),
    ],
)  # fmt: skip
def test_a_name_is_followed_to_where_it_is_defined(files: dict[str, str], asked: str, found: str, cwd: Path) -> None:
    make(cwd, files)
    located = locate(asked, ("re_a",))
    assert f"{located.module}:{located.name}" == found
    assert callable(import_architecture(located))


def test_a_name_of_another_package_needs_that_one_to_be_trusted_too(cwd: Path) -> None:
    files = {"re_b.py": NET, "re_a/__init__.py": "from re_b import Net\n", "re_a/stars.py": "from re_b import *\n"}
    make(cwd, {**files, "re_a/other.py": "import re_b\n\nNet = re_b.Net\n"})
    for module in ("re_a", "re_a.stars", "re_a.other"):
        with pytest.raises(UnsafeError, match=r"Net in .* is not defined there but .*: re_b is not trusted") as caught:
            locate(f"{module}:Net", ("re_a",))
        assert "--trust re_b" in str(caught.value.hint)
        assert locate(f"{module}:Net", ("re_a", "re_b")).module == "re_b"


def test_modules_that_import_everything_of_one_another_end(cwd: Path) -> None:
    make(cwd, {"re_a.py": "from re_b import *\n", "re_b.py": "from re_a import *\n"})
    with pytest.raises(ArchitectureError, match="re_a defines no 'Net'"):
        locate("re_a:Net", ("re_a", "re_b"))


def test_what_is_another_object_once_imported_is_refused(cwd: Path) -> None:
    """Both modules are there, and the first of them does not import."""
    source = "try:\n    from .fast import Net\nexcept ImportError:\n    from .net import Net\n"
    make(cwd, {"re_a/__init__.py": source, "re_a/net.py": NET, "re_a/fast.py": f"{NET}\nNet.fast = True\n"})
    assert import_architecture(locate("re_a:Net", ("re_a",))).fast  # type: ignore[union-attr]
    del sys.modules["re_a"], sys.modules["re_a.fast"]
    make(cwd, {"re_a/fast.py": f"{NET}\nimport re_missing\n"})
    with pytest.raises(ArchitectureError, match=r"re_a.fast cannot be imported: re_missing is not installed"):
        import_architecture(locate("re_a:Net", ("re_a",)))


@pytest.mark.parametrize(
    ("folder", "text"),
    [
        ("src", None),
        ("src", "[project]\nname = 'x'\n"),
        ("lib", "[tool.setuptools.package-dir]\n'' = 'lib'\n"),
        ("lib", "[tool.setuptools.packages.find]\nwhere = ['lib']\n"),
        ("source/py", "[tool.hatch.build.targets.wheel]\npackages = ['source/py/re_c']\n"),
        ("lib", "[tool.hatch.build.targets.wheel]\nsources = ['lib']\n"),
        ("lib", "[tool.poetry]\npackages = [{include = 're_c', from = 'lib'}]\n"),
        ("lib", "[tool.pdm.build]\npackage-dir = 'lib'\n"),
        ("lib", "[tool.uv.build-backend]\nmodule-root = 'lib'\n"),
        ("src", "[tool.setuptools]\npackages = 3\n[tool.poetry]\npackages = 'x'\n[tool.hatch]\nbuild = []\n"),
    ],
)
def test_a_package_is_found_where_the_project_keeps_it(folder: str, text: str | None, cwd: Path) -> None:
    make(cwd, {f"{folder}/re_c/__init__.py": "from .deep.net import Net\n", f"{folder}/re_c/deep/__init__.py": ""})
    make(cwd, {f"{folder}/re_c/deep/net.py": f"import re_c\n{NET}", f"{folder}/re_single.py": NET})
    if text is not None:
        make(cwd, {"pyproject.toml": text})
    for target in ("re_c:Net", "re_c.deep.net:Net", "re_single:Net"):
        assert callable(import_architecture(locate(target, ("re_c", "re_single"))))
    assert sys.path.count(str((cwd / folder).resolve())) == 1


def test_what_can_be_imported_goes_before_what_lies_in_src(cwd: Path) -> None:
    make(cwd, {"src/re_c/net.py": NET, "re_c/net.py": NET, "src/torch/net.py": NET})
    assert locate("re_c.net:Net", ("re_c",)).path == (cwd / "re_c/net.py").resolve()
    with pytest.raises(ArchitectureError, match="torch has no module 'net'"):
        locate("torch.net:Net", ("torch",))


def test_no_folder_outside_the_project_is_looked_into(cwd: Path) -> None:
    make(cwd, {"inside/pyproject.toml": "[tool.setuptools.package-dir]\n'' = '../lib'\n", "lib/re_c.py": NET})
    assert project.source_folders(cwd / "inside") == []


def test_a_pyproject_that_cannot_be_read_is_said_before_anything_is_looked_for(cwd: Path) -> None:
    make(cwd, {"pyproject.toml": "["})
    with pytest.raises(InputError, match=r"pyproject.toml cannot be read"):
        locate("re_absent:Net", ("re_absent",))
