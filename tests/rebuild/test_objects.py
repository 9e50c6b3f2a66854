"""Objects among a network's arguments: made by classes that are trusted, found without importing; anything else is refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest
from torch import nn

from pipeline.errors import ArchitectureError, ConfigError, UnsafeError, WeighbridgeError
from pipeline.rebuild import objects
from pipeline.rebuild.trust import import_architecture, locate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SETTINGS = """
from dataclasses import dataclass, field

@dataclass
class Inner:
    rate: float = 0.5

@dataclass
class Settings:
    width: int
    kind: str = "relu"
    inner: Inner | None = None

    @classmethod
    def from_file(cls, path):
        import json
        with open(path) as file:
            return cls(**json.load(file))

    @staticmethod
    def small():
        return Settings(width=1)

    def grown(self):
        return Settings(self.width + 1)

def make_settings(width):
    return Settings(width)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "wbobjects"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .settings import Settings\nfrom .more import *\nfrom os import system\n")
    (folder / "settings.py").write_text(SETTINGS)
    (folder / "more.py").write_text("class Extra:\n    def __init__(self, *items):\n        self.items = items\n")
    (tmp_path / "config.json").write_text('{"width": 7, "kind": "gelu"}')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("wb")]:
        del sys.modules[name]


def made(value, project):
    return objects.make(value, ("wbobjects",), project)


@pytest.mark.parametrize(
    "target", ["wbobjects.settings:Settings", "wbobjects:Settings", "wbobjects.settings.Settings", "wbobjects.Settings"]
)
def test_an_object_is_made_from_its_class_by_either_way_to_write_it(project, target) -> None:
    found = made({"config": {"_target_": target, "width": 3, "kind": "gelu"}, "depth": 2}, project)
    assert (type(found["config"]).__name__, found["config"].width, found["config"].kind, found["depth"]) == (
        "Settings",
        3,
        "gelu",
        2,
    )


def test_objects_nest_and_stand_in_lists(project) -> None:
    inner = {"_target_": "wbobjects.settings:Inner", "rate": 0.1}
    found = made([{"_target_": "wbobjects:Settings", "width": 1, "inner": inner}, {"plain": [1, 2]}], project)
    assert found[0].inner.rate == 0.1
    assert found[1] == {"plain": [1, 2]}
    assert [path for path, _ in objects.targets([{"_target_": "a", "inner": inner}])] == ["0", "0.inner"]


def test_a_file_beside_the_config_is_found_from_wherever_the_command_runs(project, monkeypatch) -> None:
    value = {"_target_": "wbobjects:Settings.from_file", "path": "config.json"}
    elsewhere = project / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr(sys, "path", [*sys.path, str(project)])
    monkeypatch.chdir(elsewhere)
    assert made(value, project).kind == "gelu"
    assert objects.files({"config": value}, project) == [project / "config.json"]


def test_class_methods_positional_arguments_and_partials(project) -> None:
    assert made({"_target_": "wbobjects:Settings.small"}, project).width == 1
    assert made({"_target_": "wbobjects:Extra", "_args_": [1, "two"]}, project).items == (1, "two")
    partial = made({"_target_": "wbobjects:Settings", "_partial_": True, "width": 4}, project)
    assert partial(kind="tanh").kind == "tanh"


def test_modules_of_torch_need_no_trust_of_their_own(project) -> None:
    assert isinstance(made({"_target_": "torch.nn:GELU", "approximate": "tanh"}, project), nn.GELU)
    norm = made({"_target_": "torch.nn.LayerNorm", "_partial_": True, "eps": 1e-6}, project)
    assert norm(4).eps == 1e-6


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        ({"_target_": "os:system", "command": "x"}, UnsafeError, "belongs to Python itself"),
        ({"_target_": "subprocess.Popen", "args": "x"}, UnsafeError, "belongs to Python itself"),
        ({"_target_": "torch:load", "f": "x"}, UnsafeError, "torch is not trusted"),
        ({"_target_": "torch.hub:load"}, UnsafeError, "torch.hub is not trusted"),
        ({"_target_": "numpy:load"}, UnsafeError, "numpy is not trusted"),
        ({"_target_": "wbobjects:system"}, UnsafeError, "is not defined there but imported from os"),
        ({"_target_": "wbobjects.settings:make_settings", "width": 1}, UnsafeError, "is a function, and arguments are made by classes"),
        ({"_target_": "wbobjects:Settings.__init__"}, UnsafeError, "reaches into a class"),
        ({"_target_": "wbobjects:Settings._private"}, UnsafeError, "reaches into a class"),
        ({"_target_": "wbobjects:Settings.small.__globals__"}, UnsafeError, "reaches into a class"),
        ({"_target_": "wbobjects:Settings.grown"}, ArchitectureError, "is no class method"),
        ({"_target_": "wbobjects:Setings"}, ArchitectureError, "defines no 'Setings'"),
        ({"_target_": "wbobjects:Settings", "wdith": 1}, ArchitectureError, "failed: TypeError"),
        ({"_target_": 3}, ConfigError, "not a text"),
        ({"_target_": "wbobjects:Settings", "_recursive_": False}, ConfigError, "'_recursive_' is none of what an object understands"),
        ({"_target_": ""}, ArchitectureError, "is not module:Name"),
    ],
)  # fmt: skip
def test_anything_else_is_refused_with_the_fix(project, value, error, said) -> None:
    with pytest.raises(error, match=said) as caught:
        made({"config": value}, project)
    assert caught.value.hint


# Networks of installed packages


def package(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


NET = "from torch import nn\nclass {name}(nn.Module):\n    def __init__(self, width: int = 3):\n        super().__init__()\n        self.fc = nn.Linear(width, width)\n"
LAZY = "def __getattr__(name):\n    import importlib\n    if name == 'BirdModel':\n        return importlib.import_module('wblazy.models.bird.modeling_bird').BirdModel\n    raise AttributeError(name)\n"


@pytest.mark.parametrize(
    ("files", "target", "module"),
    [
        ({"wbpkg/__init__.py": "from .net import Net\n", "wbpkg/net.py": NET.format(name="Net")}, "wbpkg:Net", "wbpkg.net"),
        ({"wbpkg/__init__.py": "from wbpkg.deep.net import Net as Network\n", "wbpkg/deep/__init__.py": "", "wbpkg/deep/net.py": NET.format(name="Net")}, "wbpkg:Network", "wbpkg.deep.net"),
        ({"wbpkg/__init__.py": "from .a import *\nfrom .b import *\n", "wbpkg/a.py": "x = 1\n", "wbpkg/b.py": NET.format(name="Net")}, "wbpkg:Net", "wbpkg.b"),
        ({"wbpkg/__init__.py": "from .models import create\n", "wbpkg/models/__init__.py": "from ._factory import create\n", "wbpkg/models/_factory.py": NET.format(name="Net") + "def create(width=3, **more):\n    return Net(width)\n"}, "wbpkg:create", "wbpkg.models._factory"),
        ({"wblazy/__init__.py": LAZY, "wblazy/models/__init__.py": "", "wblazy/models/bird/__init__.py": "", "wblazy/models/bird/modeling_bird.py": NET.format(name="BirdModel")}, "wblazy:BirdModel", "wblazy.models.bird.modeling_bird"),
    ],
    ids=["re-exported", "under another name", "by a star", "a factory without annotation, twice", "made available when asked for"],
)  # fmt: skip
def test_a_network_is_followed_to_where_it_is_defined(project, files, target, module) -> None:
    package(project, files)
    found = locate(target, (target.partition(":")[0],))
    assert (found.module, found.asked) == (module, tuple(target.split(":")))
    network = import_architecture(found)(width=5)
    assert network.fc.in_features == 5


def test_a_name_that_several_files_define_is_asked_for(project) -> None:
    package(project, {"wbpkg/__init__.py": "def __getattr__(name): ...\n", "wbpkg/a.py": NET.format(name="Net"), "wbpkg/b.py": NET.format(name="Net")})  # fmt: skip
    with pytest.raises(ArchitectureError, match="2 of its files define one") as caught:
        locate("wbpkg:Net", ("wbpkg",))
    assert str(caught.value.hint) == "name the one: wbpkg.a:Net, wbpkg.b:Net"


def test_an_import_is_not_followed_out_of_what_is_trusted(project) -> None:
    package(project, {"wbpkg/__init__.py": "from wbother.net import Net\n", "wbother/__init__.py": "", "wbother/net.py": NET.format(name="Net")})  # fmt: skip
    with pytest.raises(UnsafeError, match="is not defined there but imported from wbother"):
        locate("wbpkg:Net", ("wbpkg",))
    assert locate("wbpkg:Net", ("wbpkg", "wbother")).module == "wbother.net"


def test_imports_that_go_in_a_circle_end(project) -> None:
    package(project, {"wbpkg/__init__.py": "from .a import Net\n", "wbpkg/a.py": "from wbpkg import Net\n"})
    with pytest.raises(WeighbridgeError):
        locate("wbpkg:Net", ("wbpkg",))


def test_what_is_found_must_be_what_the_package_gives_once_imported(project) -> None:
    package(project, {"wbpkg/__init__.py": "from .a import Net\nglobals()['Net'] = print\n", "wbpkg/a.py": NET.format(name="Net")})  # fmt: skip
    with pytest.raises(UnsafeError, match=r"wbpkg:Net is another object than wbpkg\.a:Net"):
        import_architecture(locate("wbpkg:Net", ("wbpkg",)))


@pytest.mark.parametrize("body", ["    pass\n", "    print(1)\n", "    return\n", "    def inner(): return 1\n"])
def test_a_function_that_returns_nothing_is_no_network(project, body) -> None:
    package(project, {"wbpkg/__init__.py": f"def build():\n{body}"})
    with pytest.raises(ArchitectureError, match="is not declared as a network"):
        locate("wbpkg:build", ("wbpkg",))
