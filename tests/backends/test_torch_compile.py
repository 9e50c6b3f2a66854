"""torch.compile: what it did is told, and nothing runs eagerly without a word. Captured only, which needs no C++ compiler."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backends import torch_compile
from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import InputError, UnavailableError, WorkerError
from pipeline.formats import inductor
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from pipeline.rebuild.network import Network

INTERFACE = Interface((InputSpec("x", "float32", ("batch", 4)),), (Dimension("batch", 1, 64),), ("y",))
BACKEND = backends()["torch-compile"]


class Whole(torch.nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 3)


class Broken(Whole):
    """Two graphs, with Python between them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        torch._dynamo.graph_break()
        return torch.relu(y)


class Restless(Whole):
    """Never the same code twice."""

    calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return super().forward(x) * float(f"1.{self.calls}")


class Impossible(Whole):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) @ torch.ones(7, 7)


@pytest.fixture(autouse=True)
def fresh(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(inductor.FOLDER_VARIABLE, raising=False)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def opened(network, tmp_path, **options):
    torch.manual_seed(0)
    torch.save(network().state_dict(), tmp_path / "weights.pth")
    prefix = __name__
    found = Network(f"{prefix}:{network.__name__}", {}, str(tmp_path / "weights.pth"), (prefix,), {})
    return BACKEND.open(Source(INTERFACE, network=found), BACKEND.options(**{"compiler": "eager", **options}))


def inputs(batch):
    return cases.make(INTERFACE, {"batch": batch}, seed=0, name="compile").inputs


def test_the_first_size_and_all_others_are_compiled_apart_and_both_are_right(tmp_path):
    session = opened(Whole, tmp_path)
    state = torch.load(tmp_path / "weights.pth", weights_only=True)
    for batch in (1, 5, 64):
        want = torch.nn.functional.linear(torch.from_numpy(inputs(batch)["x"]), state["weight"], state["bias"])
        np.testing.assert_allclose(session.run(inputs(batch))["y"], want, rtol=1e-6, atol=1e-6)
    assert session.facts["graphs"] == 2
    assert session.facts["graph_breaks"] == 0
    assert session.facts["compile_s"] > 0


def test_each_size_that_is_timed_has_code_of_its_own_and_only_once(tmp_path):
    session = opened(Whole, tmp_path)
    calls = {batch: [session.bind(inputs(batch)) for _ in range(2)] for batch in (2, 5, 9)}
    for batch, bound in calls.items():
        for call in bound:
            assert call().shape == (batch, 3)
    assert session.facts["graphs"] == 3


def test_one_code_serves_all_sizes_where_that_is_asked_for(tmp_path):
    session = opened(Whole, tmp_path, dynamic=True)
    for batch in (2, 5, 9):
        session.bind(inputs(batch))()
        session.run(inputs(batch))
    assert session.facts["graphs"] == 1


def test_graph_breaks_are_counted_and_named(tmp_path):
    session = opened(Broken, tmp_path)
    session.run(inputs(3))
    assert session.facts["graphs"] == 2
    assert session.facts["graph_breaks"] >= 1  # Dynamo counts each frame that it goes through
    assert "graph_break" in session.facts["graph_break_reasons"][0]


def test_a_network_that_is_compiled_again_with_each_call_is_an_error_not_run_eagerly(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_compile, "_MOST_RECOMPILES", 3)
    session = opened(Restless, tmp_path)

    def call_again_and_again():
        for _ in range(8):
            session.run(inputs(3))

    with pytest.raises(WorkerError, match=r"torch\.compile: .*recompile"):
        call_again_and_again()


def test_nothing_is_run_eagerly_where_compiling_is_switched_off(tmp_path):
    session = opened(Whole, tmp_path)
    with torch._dynamo.config.patch(disable=True), pytest.raises(UnavailableError, match="nothing") as refused:
        session.run(inputs(3))
    assert "TORCH_COMPILE_DISABLE" in refused.value.hint


def test_suppressed_errors_are_not_suppressed(tmp_path):
    with torch._dynamo.config.patch(suppress_errors=True, fail_on_recompile_limit_hit=False):
        session = opened(Impossible, tmp_path)
        with pytest.raises(WorkerError, match="must have same reduction dim"):
            session.run(inputs(3))


def test_what_cannot_be_compiled_is_told_in_one_line(tmp_path):
    with pytest.raises(WorkerError) as told:
        opened(Impossible, tmp_path).run(inputs(3))
    assert "\n" not in told.value.message
    assert len(told.value.message) < 300


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.zeros((2, 4))}, "float64, expected float32"),
        ({"x": np.zeros((2, 5), np.float32)}, r"\[2, 5\], declared is \[batch, 4\]"),
        ({"x": np.zeros((65, 4), np.float32)}, "batch is 65"),
        ({"y": np.zeros((2, 4), np.float32)}, "missing x"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_compiled_for_them(tmp_path, arrays, said):
    session = opened(Whole, tmp_path)
    for call in (session.run, session.bind):
        with pytest.raises(InputError, match=said):
            call(arrays)
    assert "graphs" not in session.facts


# Where it compiles


def test_a_compiler_is_looked_for_where_inductor_does_and_without_torch():
    said = (
        "import sys, os; os.environ['CXX'] = '/nowhere/c++'; from pipeline.backends.table import backends; "
        "print(backends()['torch-compile'].probe(), 'torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert ran.stdout.startswith("no C++ compiler: the variable CXX names /nowhere/c++, which does not answer")
    assert ran.stdout.endswith("False\n")


def test_a_compiler_that_does_not_answer_is_none(tmp_path, monkeypatch):
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    assert "does not answer" in inductor.probe()


def test_another_compiler_that_works_is_named(monkeypatch):
    monkeypatch.setenv("CXX", "/nowhere/c++")
    monkeypatch.setattr(inductor, "_version", lambda command: "clang 99" if command == "clang++" else "")
    assert inductor.probe().endswith("clang++ does, so CXX=clang++ would do")


def test_compiled_code_is_kept_where_nobody_else_can_write(tmp_path, monkeypatch):
    assert inductor.prepare() == tmp_path / "cache" / "weighbridge" / "inductor"
    assert (tmp_path / "cache" / "weighbridge" / "inductor").stat().st_mode & 0o022 == 0
    monkeypatch.delenv(inductor.FOLDER_VARIABLE)
    (tmp_path / "cache" / "weighbridge" / "inductor").chmod(0o777)
    monkeypatch.setattr(inductor.tempfile, "gettempdir", lambda: str(tmp_path))
    assert inductor.prepare().parent == tmp_path


def test_a_folder_that_somebody_chose_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv(inductor.FOLDER_VARIABLE, str(tmp_path / "mine"))
    assert inductor.prepare() == tmp_path / "mine"
    assert Path(torch._inductor.codecache._HEADER_DIR).parent == tmp_path / "mine"


def test_a_folder_with_a_space_in_its_path_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "my cache"))
    monkeypatch.setattr(inductor.tempfile, "gettempdir", lambda: str(tmp_path))
    assert inductor.prepare().parent == tmp_path
    monkeypatch.setenv(inductor.FOLDER_VARIABLE, str(tmp_path / "my own"))
    with pytest.raises(UnavailableError, match="no folder with a space"):
        inductor.prepare()
