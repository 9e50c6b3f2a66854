"""What only a C++ compiler shows: `make test-compiled`. Networks of every kind through torch.compile and AOTInductor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import ExportError, InputError, UnavailableError, WorkerError
from pipeline.formats import inductor
from pipeline.formats.aotinductor import export as exporting
from pipeline.formats.aotinductor import package
from pipeline.formats.format import AuditSubject, FromNetwork
from pipeline.formats.table import formats
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import cases
from pipeline.rebuild.network import Network
from tests.formats.aotinductor import packages
from tests.parity.test_compare import judge, reference
from tests.run.test_network_twice import config  # noqa: F401 - a fixture

pytestmark = pytest.mark.skipif(bool(inductor.probe()), reason=str(inductor.probe()))

BATCH = Dimension("batch", 1, 64)
CPU = backends()["aotinductor-cpu"]
AOTINDUCTOR = formats()["aotinductor"]


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv1d(3, 5, 3, padding=1)
        self.out = torch.nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = torch.relu(self.conv(x)).mean(2)
        return self.out(hidden), hidden.amax(1)


class Marked(torch.nn.Module):
    """Two inputs, one of whole numbers; outputs in a dict; two sizes that vary."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(37, 8)
        self.out = torch.nn.Linear(8, 4)

    def forward(self, ids: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.embedding(ids) * weights.unsqueeze(2)
        pooled = found.sum(1) / weights.sum(1, keepdim=True).clamp_min(1e-3)
        return {"logits": self.out(pooled), "pooled": pooled}


class Stepped(torch.nn.Module):
    """State in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(6, 7)

    def forward(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        new = self.cell(x, state)
        return torch.tanh(new).mean(1), new


SMALL = Interface((InputSpec("x", "float32", ("batch", 3, 11)),), (BATCH,), ("y", "largest"))
MARKED = Interface(
    (
        InputSpec("ids", "int64", ("batch", "length"), low=0, high=37),
        InputSpec("weights", "float32", ("batch", "length")),
    ),
    (BATCH, Dimension("length", 1, 40)),
    ("logits", "pooled"),
)
STEPPED = Interface(
    (InputSpec("x", "float32", ("batch", 6)), InputSpec("state", "float32", ("batch", 7))), (BATCH,), ("y", "next")
)
KINDS = {Small: SMALL, Marked: MARKED, Stepped: STEPPED}


@pytest.fixture(scope="module", autouse=True)
def _kept(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(inductor.FOLDER_VARIABLE, str(tmp_path_factory.mktemp("inductor")))
        yield


def made(network):
    torch.manual_seed(0)
    return network().eval()


def exported(network, interface, folder, **options):
    folder.mkdir(parents=True)
    examples = cases.make(interface, cases.example_sizes(interface), seed=0, name="exporter").inputs
    identity = {"name": "test", "weights_sha256": "0" * 64}
    origin = FromNetwork(made(network), interface, examples, folder / AOTINDUCTOR.file, identity)
    return AOTINDUCTOR.export(origin, AOTINDUCTOR.options(**options))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return {network: exported(network, each, folder / network.__name__) for network, each in KINDS.items()}


def opened(file, interface):
    return CPU.open(Source(interface, file), CPU.options())


def expected(network, interface, inputs):
    with torch.inference_mode():
        found = made(network)(*(torch.from_numpy(inputs[each.name]) for each in interface.inputs))
    values = found.values() if isinstance(found, dict) else found
    return dict(zip(interface.outputs, (each.numpy() for each in values), strict=True))


def assert_right(session, network, interface):
    for case in cases.sample(interface, seed=1, cap_elements=10_000):
        got, want = session.run(case.inputs), expected(network, interface, case.inputs)
        assert got.keys() == want.keys()
        for name, value in want.items():
            np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5 * max(np.abs(value).max(), 1))


@pytest.mark.parametrize("network", KINDS)
def test_a_package_computes_what_the_network_does_at_every_declared_size(written, network):
    assert_right(opened(written[network].files[0], KINDS[network]), network, KINDS[network])


@pytest.mark.parametrize("network", KINDS)
def test_torch_compile_computes_what_the_network_does_at_every_declared_size(network, tmp_path):
    torch.save(made(network).state_dict(), tmp_path / "weights.pth")
    found = Network(f"{__name__}:{network.__name__}", {}, str(tmp_path / "weights.pth"), (__name__,), {})
    backend = backends()["torch-compile"]
    session = backend.open(Source(KINDS[network], network=found), backend.options())
    assert_right(session, network, KINDS[network])
    assert session.facts["graphs"] >= 2


@pytest.mark.parametrize("hash_seed", ["0", "7"])
def test_a_package_has_the_same_bytes_in_another_folder_and_process(written, tmp_path, hash_seed):
    target = tmp_path / "else where" / "deeper"
    said = (
        f"from pathlib import Path; from tests.sweeps.compiled import *; exported(Small, SMALL, Path({str(target)!r}))"
    )
    environment = {"PYTHONPATH": str(Path.cwd()), "PYTHONHASHSEED": hash_seed, "OMP_NUM_THREADS": "1"}
    changed = {inductor.FOLDER_VARIABLE: str(tmp_path / f"cache-{hash_seed}"), "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-W", "ignore", "-c", said], env=os.environ | environment | changed, check=True)
    assert (target / AOTINDUCTOR.file).read_bytes() == written[Small].files[0].read_bytes()


def test_no_path_of_this_machine_is_in_a_package(written, tmp_path):
    content = written[Small].files[0].read_bytes()
    for place in (Path.cwd(), Path(torch.__file__).parent, Path.home(), tmp_path.parent):
        assert str(place).encode() not in content


def test_most_weights_are_found_in_it_and_one_that_was_changed_is_not(written, tmp_path):
    state = {name: each.numpy() for name, each in made(Small).state_dict().items()}
    subject = AuditSubject(state, None, lambda: (None, None))
    file = written[Small].files[0]
    audited = AOTINDUCTOR.audit(file, subject)
    assert audited["share"] < 0.1
    changed = bytearray(file.read_bytes())
    where = changed.index(state["out.weight"].tobytes())
    changed[where + 3] ^= 1
    forged = tmp_path / "forged.pt2"
    forged.write_bytes(changed)
    assert AOTINDUCTOR.audit(forged, subject)["share"] > audited["share"]


def test_a_weight_that_was_changed_in_its_bytes_gives_other_outputs(written, tmp_path):
    """With the checksum of its entry put right, as whoever forges it would."""
    import zipfile

    weight = made(Small).state_dict()["out.weight"].numpy()
    forged = tmp_path / "forged.pt2"
    with zipfile.ZipFile(written[Small].files[0]) as old, zipfile.ZipFile(forged, "w") as new:
        for each in old.infolist():
            new.writestr(each.filename, old.read(each).replace(weight.tobytes(), (weight * 2).tobytes()))
    case = cases.make(SMALL, {"batch": 4}, seed=0, name="forged")
    right, wrong = (opened(file, SMALL).run(case.inputs)["y"] for file in (written[Small].files[0], forged))
    assert np.abs(right - wrong).max() > 0.01


class Pair(torch.nn.Module):
    """Two outputs of one shape, which nothing but their values tells apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(6, 4), torch.nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.first(x), self.second(x)


class Swapped(Pair):
    """What a compiler that exchanged its outputs would have made of the same weights."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = super().forward(x)
        return second, first


def test_a_package_that_returns_its_outputs_in_another_order_closes_the_gate_and_that_is_said(tmp_path):
    interface = Interface((InputSpec("x", "float32", ("batch", 6)),), (BATCH,), ("first", "second"))
    case = cases.make(interface, {"batch": 4}, seed=0, name="x")
    known = reference(expected(Pair, interface, case.inputs))
    right, swapped = (
        opened(exported(each, interface, tmp_path / each.__name__).files[0], interface).run(case.inputs)
        for each in (Pair, Swapped)
    )
    assert all(each.passed for each in judge(known, right))
    findings = judge(known, swapped)
    assert not any(each.passed for each in findings)
    assert "outputs are swapped" in findings[0].problem


def test_a_package_for_other_instructions_is_not_opened(written, tmp_path):
    other = packages.edited(written[Small].files[0], tmp_path / "other.pt2", {"AOTI_CPU_ISA": "AMX_FP99"})
    with pytest.raises(UnavailableError, match="compiled for a processor with AMX_FP99; this one lacks amx_fp99"):
        opened(other, SMALL)


def test_a_package_says_what_it_was_compiled_for(written):
    found = package.read(written[Marked].files[0])
    assert found.inputs == ("ids", "weights")
    assert found.device == "cpu"
    assert set(found.metadata[package.CAPABILITIES].split()) == {*package.capabilities()}
    assert written[Marked].facts["instructions"] == found.instructions


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"x": np.zeros((2, 3, 11))}, "float64, expected float32"),
        ({"x": np.zeros((2, 3, 12), np.float32)}, "declared is"),
        ({"x": np.zeros((65, 3, 11), np.float32)}, "batch is 65"),
        ({"x": np.zeros((3, 11), np.float32)}, "declared is"),
    ],
)
def test_wrong_inputs_are_refused_before_compiled_code_sees_them(written, inputs, said):
    with pytest.raises(InputError, match=said):
        opened(written[Small].files[0], SMALL).run(inputs)


def test_compiled_code_itself_refuses_another_dtype(written, monkeypatch):
    """Were ours to miss it: without its own checks it would read eight bytes as two numbers."""
    session = opened(written[Small].files[0], SMALL)
    monkeypatch.setattr("pipeline.backends.inputs.check_inputs", lambda *_: None)
    with pytest.raises(RuntimeError, match="unmatched dtype"):
        session.run({"x": np.zeros((2, 3, 11))})


class Pictures(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.Conv2d(8, 8, 3)
        self.out = torch.nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.second(torch.relu(self.first(x))))
        return self.out(hidden.mean((2, 3)))


PICTURES = Interface((InputSpec("x", "float32", ("batch", 3, 16, 16)),), (BATCH,), ("y",))


def test_a_range_that_inductor_narrows_is_refused_and_both_are_named(tmp_path, monkeypatch):
    """As it does with examples of a size of 2, which is why they are enlarged."""
    monkeypatch.setattr(exporting, "examples_for", lambda origin, _: origin.examples)
    with pytest.raises(ExportError, match="batch: declared 1 to 64, compiled for up to 15"):
        exported(Pictures, PICTURES, tmp_path / "a")


def test_a_small_range_of_batches_is_compiled_whole(tmp_path):
    """torch asks of a convolution whether its batch is 16 or more: of 1 to 16 it would leave 16 alone."""
    interface = replace(PICTURES, dimensions=(Dimension("batch", 1, 16),))
    file = exported(Pictures, interface, tmp_path / "a").files[0]
    for batch in (1, 2, 15, 16):
        inputs = cases.make(interface, {"batch": batch}, seed=0, name="x").inputs
        with torch.inference_mode():
            want = made(Pictures)(torch.from_numpy(inputs["x"])).numpy()
        np.testing.assert_allclose(opened(file, interface).run(inputs)["y"], want, rtol=1e-4, atol=1e-5)


class Placed(torch.nn.Module):
    """It takes no more than 16 steps."""

    def __init__(self) -> None:
        super().__init__()
        self.places = torch.nn.Parameter(torch.randn(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.places[: x.shape[1]])


def test_a_network_that_takes_no_more_than_is_declared_is_compiled_for_that(tmp_path):
    interface = Interface((InputSpec("x", "float32", ("batch", "time", 4)),), (BATCH, Dimension("time", 1, 16)), ("y",))
    file = exported(Placed, interface, tmp_path / "a").files[0]
    for sizes in ({"batch": 1, "time": 1}, {"batch": 3, "time": 16}, {"batch": 64, "time": 5}):
        inputs = cases.make(interface, sizes, seed=0, name="x").inputs
        with torch.inference_mode():
            want = made(Placed)(torch.from_numpy(inputs["x"])).numpy()
        np.testing.assert_allclose(opened(file, interface).run(inputs)["y"], want, rtol=1e-4, atol=1e-5)


def test_what_the_compiler_refuses_is_told_in_its_own_words(tmp_path, monkeypatch):
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\ncase "$*" in *--version*|*-dump*) exec g++ "$@";; esac\necho "x.cpp:1: error: no luck today" >&2\nexit 1\n'
    )
    broken.chmod(0o700)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr(exporting.inductor, "command", lambda: str(broken))
    with pytest.raises(ExportError, match="Inductor: error: no luck today") as told:
        exported(Small, SMALL, tmp_path / "a")
    assert "\n" not in told.value.message


def test_code_is_found_again_by_another_process_and_two_may_compile_at_once(tmp_path):
    torch.save(made(Small).state_dict(), tmp_path / "weights.pth")
    said = (
        "import json; from tests.sweeps.compiled import *; "
        f"n = Network('tests.sweeps.compiled:Small', {{}}, {str(tmp_path / 'weights.pth')!r}, ('tests.sweeps.compiled',), {{}}); "
        "b = backends()['torch-compile']; s = b.open(Source(SMALL, network=n), b.options()); "
        "s.run(cases.make(SMALL, {'batch': 4}, seed=0, name='x').inputs); "
        "print(json.dumps([s.facts['graphs'], s.facts['graphs_from_cache']]))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), inductor.FOLDER_VARIABLE: str(tmp_path / "kept")}

    def once(_):
        command = [sys.executable, "-W", "ignore", "-c", said]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    with ThreadPoolExecutor(2) as pool:
        assert [each.partition(",")[0] for each in pool.map(once, range(2))] == ["[1", "[1"]
    assert once(0) == "[1, 1]"


def test_nothing_of_a_package_is_left_behind_where_it_was_unpacked(written):
    import tempfile

    opened(written[Small].files[0], SMALL)
    assert not list(Path(tempfile.gettempdir()).glob("weighbridge-aoti-*"))
    assert threading.active_count() < 20


def test_a_library_that_is_none_is_an_error_of_one_line(tmp_path):
    path = packages.package(tmp_path / "model.pt2", library=b"\x7fELF nothing")
    with pytest.raises(WorkerError, match="torch cannot load") as told:
        opened(path, SMALL)
    assert "\n" not in told.value.message


def test_explaining_a_network_that_is_compiled_climbs_from_capturing_it_to_compiling_it(config, weighbridge):  # noqa: F811 - the fixture
    done = weighbridge("parity", config("Same"), "--explain", "--json")
    assert done.code == 0, done.err
    told = next(each for each in json.loads(done.out)["explanations"] if each["backend"] == "captured")
    rungs = ["float64 eager", "float32 eager", "captured", "captured as operators", "compiled"]
    assert [(each["rung"], each["passed"]) for each in told["ladder"]] == [(each, True) for each in rungs]
    assert "compiled as it runs" in told["problem"]
