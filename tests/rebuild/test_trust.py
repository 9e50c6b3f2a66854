"""Which architectures may run: found in their source, refused before anything is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ArchitectureError, InputError, UnsafeError, WeighbridgeError, suggestion
from pipeline.rebuild.trust import (
    ALWAYS_TRUSTED,
    Located,
    Parameter,
    check_arguments,
    import_architecture,
    locate,
    trusted_prefixes,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

OURS = (ALWAYS_TRUSTED,)
SIMPLENET = "pipeline.architectures.simplenet"

DANGEROUS = [
    "os:system",
    "os:_exit",
    "posix:system",
    "subprocess:Popen",
    "builtins:exec",
    "builtins:eval",
    "builtins:__import__",
    "importlib:import_module",
    "runpy:run_path",
    "pickle:loads",
    "shutil:rmtree",
    "ctypes:CDLL",
    "antigravity:geohash",
    "torch:load",
    "torch.hub:load",
    "numpy:load",
    "pipeline:cli",
    "pipeline.rebuild.trust:subprocess",
    "pipeline.worker:run",
    "pipeline.architecturesevil:Net",
    "pipeline.architectures_evil.net:Net",
    "pipelinearchitectures.simplenet:SimpleNet",
    "pipeline.architectures:os",
    "pipeline.architectures:annotations",
    f"{SIMPLENET}:nn",
    f"{SIMPLENET}:torch",
    f"{SIMPLENET}:annotations",
    f"{SIMPLENET}:os",
    f"{SIMPLENET}:__builtins__",
    f"{SIMPLENET}:__loader__",
    f"{SIMPLENET}:SimpleNet.__init__",
    f"{SIMPLENET}:SimpleNet.__init__.__globals__",
    f"{SIMPLENET}:nn.Module",
    f"{SIMPLENET}.nn:Module",
    f"{SIMPLENET}.__init__:SimpleNet",
    f"{SIMPLENET}:",
    f"{SIMPLENET}",
    ":SimpleNet",
    ":",
    "",
    f"{SIMPLENET}::SimpleNet",
    f"{SIMPLENET}:SimpleNet()",
    f"{SIMPLENET}:SimpleNet;import os",
    f" {SIMPLENET}:SimpleNet",
    f"{SIMPLENET}:SimpleNet\n",
    f"{SIMPLENET}: SimpleNet",
    f"{SIMPLENET}\0:SimpleNet",
    "pipeline.architectures..simplenet:SimpleNet",
    "pipeline.architectures.:SimpleNet",
    ".pipeline.architectures.simplenet:SimpleNet",
    "..os:system",
    "pipeline.architectures...trust:Located",
    "pipeline.architectures/simplenet:SimpleNet",
    "pipeline/architectures/simplenet.py:SimpleNet",
    "/etc/passwd:x",
    "pipeline.architectures.../../evil:Net",
    "pipeline.architectures.simplenеt:SimpleNet",  # a Cyrillic е
    f"{SIMPLENET}:SimpleNеt",
    "ｏｓ:system",
    f"{SIMPLENET}：SimpleNet",
    "pipeline.architectures.SimpleNet:SimpleNet",
    "pipeline.architectures.missing:Net",
    "pipeline.architectures.missing.deeper:Net",
    "torch.nn:Linear",
]


def make(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def locate_net(project: Path, source: str, target: str = "mine.net:Net") -> Located:
    make(project, {"mine/__init__.py": "raise SystemExit('imported')\n", "mine/net.py": source})
    return locate(target, ("mine",))


# --- nothing runs

AUDIT = """
import json, sys
from pathlib import Path
import pipeline.rebuild.trust as trust
from pipeline.errors import WeighbridgeError, suggestion
events = []
def watch(event, args):
    if event in ("exec", "import", "os.system", "subprocess.Popen", "marshal.loads", "ctypes.dlopen", "socket.connect"):
        events.append((event, repr(args)[:200]))
prefixes, targets = json.loads(sys.stdin.read())
suggestion("warm", ["worm"])  # what the standard library itself imports late
before = set(sys.modules)
sys.addaudithook(watch)
outcomes = []
for target in targets:
    try:
        outcomes.append([target, "found", trust.locate(target, prefixes).name])
    except WeighbridgeError as error:
        outcomes.append([target, type(error).__name__, error.message, bool(error.hint)])
seen, modules = list(events), sorted(set(sys.modules) - before)
import colorsys  # the control: the hook does see an import
assert {"import", "exec"} <= {event for event, _ in events[len(seen):]}, events
print(json.dumps({"events": seen, "modules": modules, "outcomes": outcomes}))
"""


def audited(project: Path, prefixes: tuple[str, ...], targets: list[str]) -> dict[str, list[list[str]]]:
    """Locate every target in a fresh process, with a record of what was imported or run on the way."""
    repository = Path(__file__).resolve().parents[2]
    child = subprocess.run(
        [sys.executable, "-c", AUDIT],
        input=json.dumps([prefixes, targets]),
        capture_output=True,
        text=True,
        check=True,
        cwd=project,
        env={"PYTHONPATH": str(repository), "PYTHONUTF8": "1"},
    )
    found: dict[str, list[list[str]]] = json.loads(child.stdout)
    return found


def test_every_dangerous_target_is_refused_and_nothing_is_imported_or_run(project: Path) -> None:
    found = audited(project, OURS, DANGEROUS)
    assert len(found["outcomes"]) == len(DANGEROUS) >= 30
    for target, outcome, *_, hinted in found["outcomes"]:
        assert outcome in {"UnsafeError", "ArchitectureError"}, (target, outcome)
        assert hinted, target
    assert found["events"] == []
    assert found["modules"] == []


def test_finding_a_network_imports_neither_it_nor_its_packages(project: Path) -> None:
    bomb = "raise SystemExit('imported')\n"
    network = f"{bomb}from torch import nn\nclass Net(nn.Module): ...\n"
    make(
        project,
        {"mine/__init__.py": bomb, "mine/deep/__init__.py": bomb, "mine/deep/net.py": network, "single.py": network},
    )
    targets = ["mine.deep.net:Net", "single:Net", f"{SIMPLENET}:SimpleNet", "mine.deep.nett:Net", "mine.deep.net:Nett"]
    found = audited(project, ("mine", "single", *OURS), targets)
    assert [outcome for _, outcome, *_ in found["outcomes"]] == ["found"] * 3 + ["ArchitectureError"] * 2
    assert found["events"] == []
    assert found["modules"] == []


@pytest.mark.parametrize(
    "target", ["os:system", "mine.net:Net", "pipeline.architecturesevil:Net", "pipeline:Net", "torch.nn:Linear"]
)
def test_what_is_not_trusted_is_unsafe(target: str) -> None:
    with pytest.raises(UnsafeError) as caught:
        locate(target, OURS)
    assert caught.value.exit_code == 3


def test_the_refusal_names_the_exact_option_and_the_lines_for_pyproject() -> None:
    with pytest.raises(UnsafeError) as caught:
        locate("mine.nets.vision:Net", OURS)
    assert "mine.nets.vision is not trusted" in caught.value.message
    assert "--trust mine.nets.vision" in str(caught.value.hint)
    assert '[tool.weighbridge] trust = ["mine.nets.vision"]' in str(caught.value.hint)


def test_python_itself_cannot_be_trusted() -> None:
    with pytest.raises(UnsafeError, match="belongs to Python itself"):
        locate("os:system", ("os",))


@pytest.mark.parametrize("name", ["nn", "torch"])
def test_an_imported_name_is_unsafe_even_in_a_trusted_file(name: str) -> None:
    with pytest.raises(UnsafeError, match=f"{name} in .*simplenet.py is not defined there but imported"):
        locate(f"{SIMPLENET}:{name}", OURS)


@pytest.mark.parametrize(
    "source",
    [
        "from os import system as Net\n",
        "import os as Net\n",
        "import os\nNet = os.system\n",
        "import os\nNet: object = os.system\n",
        "import os\nif True:\n    Net = os.system\n",
        "try:\n    from os import system as Net\nexcept ImportError:\n    pass\n",
        "with open('x') as Net: pass\n",
        "for Net in (): pass\n",
        "import os\n(Net := os.system)\n",
        "from torch import nn\nimport os\nclass Net(nn.Module): ...\nNet = os.system\n",
        "from torch import nn\nclass Net(nn.Module): ...\nfrom os import system as Net\n",
    ],
)
def test_a_name_bound_by_anything_but_class_or_def_is_unsafe(project: Path, source: str) -> None:
    with pytest.raises(UnsafeError, match="Net in"):
        locate_net(project, source)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("x = 1\n", "defines no 'Net'"),
        ("class Nett(Base): ...\n", r"defines no 'Net' \(nearest valid: 'Nett'\)"),
        ("def outer():\n    class Net(Base): ...\n", "defines no 'Net'"),
        ("if True:\n    class Net(Base): ...\n", "defines no 'Net'"),
        ("async def Net() -> Module: ...\n", "defines no 'Net'"),
        ("class Net: ...\n", "not declared as a network"),
        ("def Net(): ...\n", "not declared as a network"),
        ("def Net() -> None: ...\n", "not declared as a network"),
        ("def Net() -> 'not a name': ...\n", "not declared as a network"),
        ("class Net(:\n", "is not valid Python"),
        ("x = '\\0'\n\0", "is not valid Python"),
        ("(" * 5000, "is not valid Python"),
        ("# -*- coding: utf-7 -*-\nclass Net(Base): ...\n", "encoded as utf-7"),
        ("\n# vim: set fileencoding=rot13 :\nclass Net(Base): ...\n", "encoded as rot13"),
    ],
)
def test_what_is_no_network_is_an_architecture_error(project: Path, source: str, said: str) -> None:
    with pytest.raises(ArchitectureError, match=said) as caught:
        locate_net(project, source)
    assert caught.value.exit_code == 2


def test_a_module_that_does_not_exist_is_answered_with_its_neighbours() -> None:
    with pytest.raises(ArchitectureError, match=r"no module 'simplnet' \(nearest valid: 'simplenet'\)"):
        locate("pipeline.architectures.simplnet:SimpleNet", OURS)
    with pytest.raises(ArchitectureError, match="no package or source file 'absent'"):
        locate("absent.net:Net", ("absent",))


def test_a_link_out_of_the_package_is_unsafe(project: Path) -> None:
    make(
        project,
        {"outside/net.py": "class Net(Base): ...\n", "mine/__init__.py": "", "mine/ok.py": "class Net(Base): ...\n"},
    )
    (project / "mine/net.py").symlink_to(project / "outside/net.py")
    (project / "mine/sub").symlink_to(project / "outside")
    (project / "mine/alias.py").symlink_to(project / "mine/ok.py")
    (project / "single.py").symlink_to(project / "outside/net.py")
    for target in ("mine.net:Net", "mine.sub.net:Net", "mine.alias:Net", "single:Net"):
        with pytest.raises(UnsafeError, match="is a link that leads"):
            locate(target, ("mine", "single"))
    assert locate("mine.ok:Net", ("mine",)).path == (project / "mine/ok.py").resolve()


def test_a_huge_source_file_is_refused(project: Path) -> None:
    with pytest.raises(UnsafeError, match="the limit is 4194304"):
        locate_net(project, "#" * (4 * 2**20 + 1))


def test_a_package_goes_before_a_module_of_its_name_as_python_has_it(project: Path) -> None:
    make(project, {"mine/net/__init__.py": "class Net(Base): ...\n"})
    assert locate_net(project, "class Net(Base): ...\n").path.name == "__init__.py"


def test_the_folder_of_the_command_cannot_replace_our_own_package(project: Path) -> None:
    make(project, {"pipeline/__init__.py": "", "pipeline/architectures/evil.py": "class Net(Base): ...\n"})
    with pytest.raises(ArchitectureError, match="no module 'evil'"):
        locate("pipeline.architectures.evil:Net", OURS)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dotted=st.text(max_size=30) | st.from_regex(r"pipeline\.architectures[a-z.:_]{0,12}", fullmatch=True))
def test_any_text_is_located_under_a_trusted_prefix_or_refused(dotted: str) -> None:
    try:
        found = locate(dotted, OURS)
    except WeighbridgeError:
        return
    assert found.module == ALWAYS_TRUSTED or found.module.startswith(f"{ALWAYS_TRUSTED}.")


# --- what is known of the arguments


def test_parameters_come_with_their_literal_defaults(project: Path) -> None:
    found = locate_net(
        project,
        "class Net(nn.Module):\n"
        "    def __init__(self, width: int, depth=3, *rest, kind: str = 'relu', size=WIDTH, must, sizes=(1, 2)): ...\n",
    )
    assert found.parameters == (
        Parameter("width", has_default=False, default=None),
        Parameter("depth", has_default=True, default=3),
        Parameter("kind", has_default=True, default="relu"),
        Parameter("size", has_default=True, default=None),
        Parameter("must", has_default=False, default=None),
        Parameter("sizes", has_default=True, default=(1, 2)),
    )


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("class Net(nn.Module): ...\n", []),
        ("class Base(nn.Module):\n    def __init__(self, width): ...\nclass Net(Base): ...\n", ["width"]),
        ("def Net(width, depth=1) -> nn.Module: ...\n", ["width", "depth"]),
        ("def Net(width) -> 'torch.nn.Module': ...\n", ["width"]),
        ("class Net(Elsewhere): ...\n", None),
        ("class Net(A, nn.Module): ...\n", None),
        ("class Net(nn.Module):\n    def __init__(self, **options): ...\n", None),
        ("class Net(nn.Module):\n    def __init__(self, width, /): ...\n", None),
        ("class Net(nn.Module):\n    @wrapped\n    def __init__(self, width): ...\n", None),
        ("@dataclass\nclass Net(nn.Module):\n    width: int\n", None),
        ("class Net(nn.Module, metaclass=M): ...\n", None),
        ("class Net(Net2): ...\nclass Net2(Net): ...\n", None),
    ],
)
def test_parameters_are_none_where_the_source_cannot_tell(project: Path, source: str, names: list[str] | None) -> None:
    found = locate_net(project, source)
    assert (found.parameters if found.parameters is None else [each.name for each in found.parameters]) == names


def test_unknown_and_missing_arguments_are_told_before_any_import(project: Path) -> None:
    found = locate_net(project, "class Net(nn.Module):\n    def __init__(self, hidden_size, depth=1): ...\n")
    assert check_arguments(found, {"hidden_size": 1, "depth": 2}) == []
    assert check_arguments(found, {"hiden_size": 1}) == [
        ("hiden_size", "Net has no argument 'hiden_size' (nearest valid: 'hidden_size')"),
        ("hidden_size", "Net needs the argument 'hidden_size'"),
    ]
    nothing = locate_net(project, "class Net(nn.Module): ...\n")
    assert check_arguments(nothing, {"a": 1}) == [("a", "Net takes no arguments, so not 'a'")]
    unknown = locate_net(project, "class Net(Elsewhere): ...\n")
    assert check_arguments(unknown, {"a": 1}) == []


def test_a_suggestion_is_the_nearest_name_or_the_short_list() -> None:
    assert suggestion("hiden", ["hidden", "input"]) == " (nearest valid: 'hidden')"
    assert suggestion("zzz", ["b", "a"]) == " (valid: 'a', 'b')"
    assert suggestion("zzz", []) == ""
    assert suggestion("zzz", map(str, range(11))) == ""


# --- prefixes


def test_ours_is_always_trusted_and_others_come_from_option_and_pyproject(tmp_path: Path) -> None:
    assert trusted_prefixes(tmp_path, []) == OURS
    (tmp_path / "pyproject.toml").write_text('[tool.weighbridge]\ntrust = ["mine", "other.nets"]\n')
    assert trusted_prefixes(tmp_path, ["given", "mine"]) == (ALWAYS_TRUSTED, "given", "mine", "other.nets")
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert trusted_prefixes(tmp_path, []) == OURS


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tool.weighbridge\n", "cannot be read"),
        ("\udcff", "cannot be read"),
        ("[tool.weighbridge]\ntrust = 'mine'\n", "not a list of texts"),
        ("[tool.weighbridge]\ntrust = [1]\n", "not a list of texts"),
        ("[tool]\nweighbridge = 3\n", "not a list of texts"),
        ("[tool.weighbridge]\ntrust = ['../mine']\n", "'../mine' is not a dotted module name"),
        ("[tool.weighbridge]\ntrust = ['']\n", "'' is not a dotted module name"),
    ],
)
def test_a_malformed_pyproject_is_an_input_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "pyproject.toml").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=said) as caught:
        trusted_prefixes(tmp_path, [])
    assert caught.value.hint


@pytest.mark.parametrize("prefix", ["", ".", "a.", "a b", "a:b", "*", "mоdels"])
def test_a_prefix_must_be_a_dotted_name(tmp_path: Path, prefix: str) -> None:
    with pytest.raises(InputError, match=r"--trust: .* is not a dotted module name"):
        trusted_prefixes(tmp_path, [prefix])


# --- importing, in the end


def imported(project: Path, files: dict[str, str], target: str) -> object:
    make(project, files)
    return import_architecture(locate(target, (target.partition(":")[0],)))


@pytest.fixture
def clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    yield
    for name in [name for name in sys.modules if name.startswith(("wb_", "mine"))]:
        del sys.modules[name]


@pytest.mark.usefixtures("clean_imports")
def test_a_located_class_or_function_is_imported_from_the_folder_of_the_command(project: Path) -> None:
    source = "from torch import nn\nclass Net(nn.Module): ...\ndef build() -> 'nn.Module': return Net()\n"
    network = imported(project, {"wb_one.py": source}, "wb_one:Net")
    assert isinstance(network, type)
    assert network.__module__ == "wb_one"
    assert callable(imported(project, {}, "wb_one:build"))
    assert sys.path.count(str(project.resolve())) == 1


@pytest.mark.usefixtures("clean_imports")
def test_ours_are_imported_without_the_folder_of_the_command(project: Path) -> None:
    network = import_architecture(locate(f"{SIMPLENET}:SimpleNet", OURS))
    assert network.__name__ == "SimpleNet"
    assert str(project.resolve()) not in sys.path


@pytest.mark.usefixtures("clean_imports")
@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class Base: ...\nclass Net(Base): ...\n", "is no network: .* does not subclass"),
        ("def Net() -> int: return 1\n", "is no network"),
        ("def Net() -> 'Missing': return 1\n", "annotations .* cannot be evaluated"),
        ("class Net(Missing): ...\n", "cannot be imported: NameError"),
        ("import sys\nsys.exit(0)\nclass Net(Base): ...\n", "cannot be imported: SystemExit"),
        (
            "from torch import nn\nclass Net(nn.Module): ...\nglobals()['Net'] = nn.Linear\n",
            "not defined in wb_two once imported",
        ),
        (
            "from torch import nn\nclass Net(nn.Module): ...\ndel globals()['Net']\n",
            "not defined in wb_two once imported",
        ),
    ],
)
def test_what_turns_out_otherwise_once_imported_is_refused(project: Path, source: str, said: str) -> None:
    with pytest.raises((ArchitectureError, UnsafeError), match=said):
        imported(project, {"wb_two.py": source}, "wb_two:Net")


@pytest.mark.usefixtures("clean_imports")
def test_a_file_that_changed_since_it_was_checked_is_not_imported(project: Path) -> None:
    found = locate_net(project, "class Net(Base): ...\n")
    (project / "mine/net.py").write_text("raise SystemExit('imported')\n")
    with pytest.raises(UnsafeError, match="changed after it was checked"):
        import_architecture(found)


@pytest.mark.usefixtures("clean_imports")
def test_another_module_of_the_same_name_is_not_taken_for_the_located_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(project, {"wb_three.py": "from torch import nn\nclass Net(nn.Module): ...\n"})
    make(project / "first", {"wb_three.py": "from torch import nn\nclass Net(nn.Module): ...\n"})
    found = locate("wb_three:Net", ("wb_three",))
    monkeypatch.setattr(sys, "path", [str(project / "first"), *sys.path])
    with pytest.raises(UnsafeError, match="but Python imports it from"):
        import_architecture(found)
