"""A module that may run and cannot be imported is answered with what is missing, who imports it, and how it is installed."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from pipeline.errors import ArchitectureError
from pipeline.rebuild.trust import import_architecture, locate

if TYPE_CHECKING:
    from pathlib import Path

NET = "from torch import nn\n\n\nclass Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 2)\n"


@pytest.fixture
def refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def refused(**files: str) -> ArchitectureError:
        for name in [each for each in sys.modules if each.partition(".")[0] == "im_a"]:
            del sys.modules[name]
        made = {"im_a/__init__.py": "from .net import Net\n", "im_a/net.py": NET}
        made |= {f"im_a/{name.replace('__', '/')}.py": text for name, text in files.items()}
        for name, text in made.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        with pytest.raises(ArchitectureError) as caught:
            import_architecture(locate("im_a:Net", ["im_a"]))
        return caught.value

    return refused


def test_a_package_that_is_missing_is_named_with_the_module_that_imports_it_and_the_command_that_installs_it(refusal):
    said = refusal(net=f"import wb_absent\n{NET}")
    assert "wb_absent is not installed, and im_a.net (" in said.message
    assert "net.py:1) imports wb_absent" in said.message
    assert said.hint == "pip install wb_absent"


def test_one_that_is_missing_deep_inside_is_named_where_it_is_imported(refusal):
    said = refusal(
        net=f"from .layers.norm import make\n{NET}",
        layers____init__="",
        layers__norm="import math\nfrom wb_absent.ops.misc import make\n",
    )
    assert "wb_absent is not installed, and im_a.layers.norm (" in said.message
    assert "norm.py:2) imports wb_absent" in said.message
    assert said.hint == "pip install wb_absent"


def test_one_that_the_module_itself_turned_into_an_error_of_its_own_is_named(refusal):
    said = refusal(
        net=f"try:\n    import wb_absent\nexcept ImportError as e:\n    raise RuntimeError('no luck') from e\n{NET}"
    )
    assert "wb_absent is not installed" in said.message


def test_one_that_is_installed_under_another_name_is_installed_under_it(refusal, monkeypatch):
    monkeypatch.setattr("pipeline.rebuild.imports._is_there", lambda _: False)  # whether it is or not
    said = refusal(net=f"raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')\n{NET}")
    assert said.hint == "pip install opencv-python-headless"


@pytest.mark.parametrize(
    ("line", "lacks"),
    [
        ("import numpy.nothing_such", "no module numpy.nothing_such"),
        ("from numpy import nothing_such", "no nothing_such in numpy"),
    ],
)
def test_what_an_installed_package_does_not_have_is_told_with_its_version(refusal, line, lacks):
    import numpy as np

    said = refusal(net=f"{line}\n{NET}")
    assert f"there is {lacks} as installed (numpy {np.__version__})" in said.message
    assert "im_a.net (" in said.message
    assert "pip install --upgrade numpy" in said.hint


@pytest.mark.parametrize(
    ("line", "lacks"),
    [("from .gone import x", "no module im_a.gone"), ("from .other import x", "no x in im_a.other")],
)
def test_what_the_package_itself_lacks_is_to_be_corrected_there(refusal, line, lacks):
    said = refusal(net=f"{line}\n{NET}", other="y = 1\n")
    assert f"imports what im_a does not have: {lacks}" in said.message
    assert "pip" not in said.hint


def test_any_other_failure_is_told_as_it_is(refusal):
    said = refusal(net=f"1 / 0\n{NET}")
    assert "cannot be imported: ZeroDivisionError" in said.message


@pytest.mark.parametrize("name", ["AutoModel", "AutoModelForCausalLM", "AutoBackbone"])
def test_an_auto_class_of_transformers_is_told_for_what_it_is_whether_transformers_is_there_or_not(name):
    with pytest.raises(ArchitectureError, match=rf"transformers:{name} is no network: it picks one") as caught:
        locate(f"transformers:{name}", ["transformers"])
    assert "transformers:BertModel" in caught.value.hint
