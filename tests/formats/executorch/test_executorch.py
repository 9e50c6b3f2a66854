"""Real ExecuTorch programs: every declared size, names inside, the same bytes everywhere, and what must be refused."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pipeline.backends.backend import Source
from pipeline.backends.table import backends
from pipeline.errors import ExportError, GateError, InputError
from pipeline.formats.format import AuditSubject
from pipeline.formats.table import formats
from pipeline.interface import Dimension, InputSpec, Interface
from pipeline.rebuild import calling, cases
from pipeline.release import standalone
from pipeline.release.verify import check
from tests.formats import networks
from tests.formats.test_exporters import ONE, TWO, NamedThree, expected, export
from tests.test_export import proven, released, sabotaged, until

EXECUTORCH, BACKEND = formats()["executorch"], backends()["executorch-xnnpack"]
pytestmark = [
    pytest.mark.skipif(EXECUTORCH.probe() is not None, reason=f"{EXECUTORCH.probe()}: make test-executorch"),
    # Of torchao, which the exporter imports.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]


class Convolution(nn.Module):
    """Asks for its batch to choose a library, which narrows 1..64 to 2..15 where nobody looks."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, image):
        return self.fc(self.conv(image).relu().mean((2, 3)))


class Pyramid(nn.Module):
    """Two dynamic sizes of an image, and several outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)

    def forward(self, image):
        fine = self.first(image).relu()
        return {"coarse": self.second(fine), "fine": fine}


class Remembering(nn.Module):
    """State in and out, beside indices and flags."""

    def __init__(self):
        super().__init__()
        self.embed, self.cell = nn.Embedding(11, 6), nn.LSTMCell(6, 6)

    def forward(self, token, keep, state):
        h, c = self.cell(self.embed(token), (state[0], state[1]))
        kept = torch.where(keep, h, state[0])
        return kept.sum(-1), torch.stack([kept, c])


class Doubles(nn.Module):
    def forward(self, x, count, flags):
        return x * count.to(torch.float64).unsqueeze(-1), flags.logical_not()


BATCH = Dimension("batch", 1, 64)
CONVOLUTION = Interface((InputSpec("image", "float32", ("batch", 3, 16, 16)),), (BATCH,), ("y",))
PYRAMID = Interface(
    (InputSpec("image", "float32", ("batch", 3, "height", "width")),),
    (Dimension("batch", 1, 4), Dimension("height", 8, 40), Dimension("width", 8, 48)),
    ("fine", "coarse"),
)
REMEMBERING = Interface(
    (
        InputSpec("token", "int64", ("batch",), low=0, high=11),
        InputSpec("keep", "bool", ("batch", 1)),
        InputSpec("state", "float32", (2, "batch", 6)),
    ),
    (BATCH,),
    ("score", "new_state"),
)
DOUBLES = Interface(
    (
        InputSpec("x", "float64", ("batch", 3)),
        InputSpec("count", "int32", ("batch",), low=0, high=9),
        InputSpec("flags", "bool", ("batch",)),
    ),
    (BATCH,),
    ("product", "rest"),
)
SWAPPABLE = Interface(
    (InputSpec("first", "float32", ("batch", 4)), InputSpec("second", "float32", ("batch", 4))), (BATCH,), ("a", "b")
)


class Swappable(nn.Module):
    """Inputs and outputs that only their names tell apart."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, first, second):
        return self.fc(first) - second, self.fc(second) * 2


def opened(written, interface, **options):
    return BACKEND.open(Source(interface, written.files[0]), BACKEND.options.model_validate(options))


def held(network, interface, folder, **options):
    """Export a network, and hold it against itself on every case of parity; return what was written."""
    written = export(network(), interface, "executorch", folder, **options)
    session = opened(written, interface)
    module = networks.made(network())
    for case in cases.sample(interface, seed=3, cap_elements=100_000):
        with torch.inference_mode():
            result = module(*calling.tensors_from(case.inputs).values())
        values = [result[name] for name in interface.outputs] if isinstance(result, dict) else result
        values = values if isinstance(values, list | tuple) else [values]
        got = session.run(case.inputs)
        assert list(got) == list(interface.outputs)
        for name, want in zip(interface.outputs, values, strict=True):
            assert got[name].dtype == want.numpy().dtype
            scale = np.abs(want.numpy()).max(initial=0)
            np.testing.assert_allclose(
                got[name], want.numpy(), rtol=1e-4, atol=1e-5 * max(scale, 1e-6), err_msg=str(case.sizes)
            )
    return written


@pytest.mark.parametrize(
    ("network", "interface"),
    [(networks.Norm, ONE), (networks.InPlace, ONE), (Convolution, CONVOLUTION), (Pyramid, PYRAMID),
     (Remembering, REMEMBERING), (Doubles, DOUBLES), (Swappable, SWAPPABLE)],
    ids=lambda each: getattr(each, "__name__", ""),
)  # fmt: skip
def test_an_export_computes_what_the_network_does_at_every_declared_size(network, interface, tmp_path):
    held(network, interface, tmp_path)


def test_without_xnnpack_it_computes_the_same_and_says_so(tmp_path):
    written = held(Convolution, CONVOLUTION, tmp_path, delegate="none")
    assert written.facts["delegated_operators"] == 0
    assert written.notes == ("XNNPACK was left out: ExecuTorch's portable kernels compute everything",)


@pytest.fixture(scope="module")
def convolution(tmp_path_factory):
    return export(Convolution(), CONVOLUTION, "executorch", tmp_path_factory.mktemp("convolution"))


def test_facts_say_who_computes_what_and_the_memory_that_was_planned_for_the_largest_sizes(convolution, tmp_path):
    narrow = replace(CONVOLUTION, dimensions=(Dimension("batch", 1, 4),))
    small, large = export(Convolution(), narrow, "executorch", tmp_path), convolution
    assert large.facts["delegated_operators"] > 0
    assert large.facts["delegated_operators"] + large.facts["other_operators"] >= 4
    assert sum(large.facts["others"].values()) == large.facts["other_operators"]
    assert large.facts["planned_bytes"] >= 64 * 3 * 16 * 16 * 4
    assert large.facts["planned_bytes"] > 10 * small.facts["planned_bytes"]


@pytest.fixture(scope="module")
def swappable(tmp_path_factory):
    return export(Swappable(), SWAPPABLE, "executorch", tmp_path_factory.mktemp("swappable"))


CASE = cases.make(SWAPPABLE, {"batch": 5}, seed=2, name="swapped")
TOLD = (
    b'{"identity":{"name":"test","weights_sha256":"'
    + b"0" * 64
    + b'"},"inputs":["first","second"],"outputs":["a","b"]}'
)


def test_inputs_and_outputs_are_bound_by_the_names_in_the_file_whatever_the_order_of_config_and_call(swappable):
    want = expected_of(SWAPPABLE)
    turned = replace(SWAPPABLE, inputs=SWAPPABLE.inputs[::-1], outputs=SWAPPABLE.outputs[::-1])
    for interface in (SWAPPABLE, turned):
        for inputs in (dict(CASE.inputs), dict(reversed(CASE.inputs.items()))):
            got = opened(swappable, interface).run(inputs)
            for name in want:
                np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)


def expected_of(interface):
    with torch.inference_mode():
        values = networks.made(Swappable())(*(torch.from_numpy(CASE.inputs[each.name]) for each in interface.inputs))
    return dict(zip(interface.outputs, (each.numpy() for each in values), strict=True))


def edited(written, before, after, folder):
    """Return a copy of a program with some of its bytes changed to others, as many."""
    data = written.files[0].read_bytes()
    assert data.count(before) == 1
    assert len(before) == len(after)
    copy = folder / "model.pte"
    copy.write_bytes(data.replace(before, after))
    return replace(written, files=(copy,))


def test_the_file_says_who_it_is(swappable):
    assert TOLD in swappable.files[0].read_bytes()


def test_names_that_are_not_the_configs_are_refused_and_never_bound_by_position(swappable, tmp_path):
    other = edited(swappable, b'["first","second"]', b'["first","twelve"]', tmp_path)
    with pytest.raises(InputError, match="inputs are first, twelve, declared are first, second"):
        opened(other, SWAPPABLE)
    with pytest.raises(InputError, match="outputs are a, b, declared are a, c"):
        opened(swappable, replace(SWAPPABLE, outputs=("a", "c")))


def test_a_program_that_says_no_names_is_refused_where_they_could_be_mistaken(swappable, tmp_path):
    nameless = edited(swappable, b"weighbridge\0", b"weighbridgE\0", tmp_path)
    with pytest.raises(InputError, match="does not say which of its inputs is which"):
        opened(nameless, SWAPPABLE)


def test_swapped_outputs_and_a_changed_weight_give_other_results(swappable, tmp_path):
    want = expected_of(SWAPPABLE)
    swapped = opened(edited(swappable, b'["a","b"]', b'["b","a"]', tmp_path), SWAPPABLE).run(CASE.inputs)
    assert not np.allclose(swapped["a"], want["a"], atol=1e-3)
    weight = networks.made(Swappable()).fc.weight.numpy()
    changed = weight.copy()
    changed[1, 1] *= 1.02
    got = opened(edited(swappable, weight.tobytes(), changed.tobytes(), tmp_path), SWAPPABLE).run(CASE.inputs)
    assert not np.allclose(got["a"], want["a"], atol=1e-4)


def test_weights_are_found_in_the_file_bit_for_bit_and_a_changed_one_is_not(swappable):
    state = {name: each.numpy() for name, each in networks.made(Swappable()).state_dict().items()}
    subject = AuditSubject(state, None, lambda: (None, None))
    assert EXECUTORCH.audit(swappable.files[0], subject)["share"] == 0
    state["fc.weight"] = state["fc.weight"] * np.float32(1.5)
    assert EXECUTORCH.audit(swappable.files[0], subject)["share"] == 16 / 20


def test_a_convolution_is_found_in_the_order_that_xnnpack_has_it_in(convolution):
    state = {name: each.numpy() for name, each in networks.made(Convolution()).state_dict().items()}
    assert EXECUTORCH.audit(convolution.files[0], AuditSubject(state, None, lambda: (None, None)))["share"] == 0


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"first": np.zeros((2, 4), np.float32)}, "missing second"),
        ({"first": np.zeros((2, 4)), "second": np.zeros((2, 4), np.float32)}, "first is float64"),
        ({"first": np.zeros((2, 4, 1), np.float32), "second": np.zeros((2, 4), np.float32)}, "axes|shape"),
        ({"first": np.zeros((2, 8), np.float32), "second": np.zeros((4, 4), np.float32)}, "shape"),
        ({"first": np.zeros((2, 4), np.float32), "second": np.zeros((3, 4), np.float32)}, "batch is 2 elsewhere"),
        ({"first": np.zeros((65, 4), np.float32), "second": np.zeros((65, 4), np.float32)}, "batch is 65"),
    ],
    ids=["name", "dtype", "rank", "size", "disagreeing", "beyond"],
)
def test_what_is_not_declared_never_gets_to_the_runtime_which_would_compute_on_it(swappable, inputs, words):
    session = opened(swappable, SWAPPABLE)
    for call in (session.run, session.bind):
        with pytest.raises(InputError, match=words):
            call(inputs)


def test_the_runtime_itself_would_have_computed_on_a_size_that_is_not_declared(convolution):
    """Why inputs are held against what is declared: it compares numbers of elements with what was planned for."""
    from pipeline.formats.executorch import runtime

    call = runtime.load(convolution.files[0]).call
    with pytest.raises(RuntimeError):
        call([torch.ones(65, 3, 16, 16)])
    assert call([torch.ones(2, 3, 16, 17)])


def test_a_narrower_range_is_refused_with_both(tmp_path, monkeypatch):
    """A program planned for less than declared must not be released, wherever it was narrowed."""
    from pipeline.formats.executorch import export as exporter

    narrow = replace(SWAPPABLE, dimensions=(Dimension("batch", 1, 15),))
    capture = exporter.captured
    monkeypatch.setattr(exporter, "captured", lambda prepared, _: capture(prepared, narrow))
    with pytest.raises(ExportError, match=r"declared 1 to 64, captured .* to 15"):
        export(Swappable(), SWAPPABLE, "executorch", tmp_path)


def test_memory_planned_for_less_than_declared_is_refused_by_what_the_runtime_says(tmp_path, monkeypatch):
    """As it was with a convolution: its program's own range constraints said 64, and its memory was planned for 15."""
    from pipeline.formats.executorch import export as exporter

    narrow = replace(SWAPPABLE, dimensions=(Dimension("batch", 1, 15),))
    capture = exporter.captured
    monkeypatch.setattr(exporter, "captured", lambda prepared, _: capture(prepared, narrow))
    monkeypatch.setattr(exporter, "_require_wide", lambda *_: None)
    with pytest.raises(ExportError, match=r"planned for \[15, 4\], declared is up to \[64, 4\]"):
        export(Swappable(), SWAPPABLE, "executorch", tmp_path)


class Searching(nn.Module):
    def forward(self, x):
        return torch.linalg.qr(x)[1]


def test_an_operator_that_it_lacks_is_its_own_refusal_in_one_line_with_what_to_do(tmp_path):
    fixed = Interface((InputSpec("x", "float32", (4, 4)),), (), ("r",))
    with pytest.raises(ExportError, match=r"ExecuTorch: .*qr") as caught:
        export(Searching(), fixed, "executorch", tmp_path)
    assert "\n" not in caught.value.message
    assert "leave `executorch` out" in caught.value.hint


def test_threads_are_set_and_the_number_that_there_is_is_said(swappable, monkeypatch):
    assert opened(swappable, SWAPPABLE, threads=2).facts["threads"] == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert opened(swappable, SWAPPABLE).facts["threads"] == 1


def test_two_sessions_called_from_several_threads_do_not_meet(swappable):
    sessions, want = [opened(swappable, SWAPPABLE) for _ in range(2)], expected_of(SWAPPABLE)

    def work(index):
        bound = sessions[index % 2].bind(CASE.inputs)
        for _ in range(50):
            got = sessions[index % 2].run(CASE.inputs)
            np.testing.assert_allclose(got["a"], want["a"], rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(bound()[0].numpy(), want["a"], rtol=1e-5, atol=1e-5)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))


SCRIPT = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from tests.formats.executorch.test_executorch import Pyramid, PYRAMID
from tests.formats.test_exporters import export
export(Pyramid(), PYRAMID, "executorch", Path(sys.argv[1]))
"""


def test_bytes_are_the_same_in_another_folder_with_another_hash_seed_and_hold_no_path(tmp_path):
    import os

    made = []
    for name, seed in (("one", "0"), ("two/deeper", "77")):
        folder = tmp_path / name
        folder.parent.mkdir(exist_ok=True)
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder)], check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": seed}
        )  # fmt: skip
        made.append((folder / "model.pte").read_bytes())
    assert made[0] == made[1]
    for trace in (str(tmp_path), sys.prefix, __file__, "site-packages", ".py"):
        assert trace.encode() not in made[0]


def test_nothing_of_what_the_runtime_writes_by_itself_is_seen(swappable, capfd):
    session = opened(swappable, SWAPPABLE, threads=2)
    session.run(CASE.inputs)
    assert capfd.readouterr() == ("", "")


def test_a_program_that_the_runtime_refuses_is_refused_in_its_words(swappable, tmp_path, capfd):
    data = bytearray(swappable.files[0].read_bytes())
    data[48:200] = bytes(152)
    (tmp_path / "model.pte").write_bytes(data)
    with pytest.raises(InputError, match="ExecuTorch does not load it: Program has null execution_plan"):
        opened(replace(swappable, files=(tmp_path / "model.pte",)), SWAPPABLE)
    assert capfd.readouterr().err == ""


def test_what_a_program_takes_and_gives_can_be_read_from_it(swappable):
    found = EXECUTORCH.read_signature(swappable.files[0])
    assert found.inputs == (("first", "float32", None), ("second", "float32", None))
    assert [name for name, _, _ in found.outputs] == ["a", "b"]


def test_dict_outputs_keep_their_names(tmp_path):
    written = export(NamedThree(), TWO, "executorch", tmp_path)
    case = cases.make(TWO, {"batch": 5}, seed=2, name="dict")
    want, got = expected(NamedThree(), TWO, dict(case.inputs)), opened(written, TWO).run(case.inputs)
    for name in TWO.outputs:
        np.testing.assert_allclose(got[name], want[name], rtol=1e-5, atol=1e-5)
    assert json.loads(TOLD)["inputs"] == ["first", "second"]


def test_the_shipped_verifier_runs_it_by_its_names(swappable):
    got = standalone.open_executorch(swappable.files[0], BACKEND.name)(CASE.inputs)
    for name, want in expected_of(SWAPPABLE).items():
        np.testing.assert_allclose(got[name], want, rtol=1e-5, atol=1e-5)


CONFIG = """
name: swappable
model: {architecture: "tests.formats.executorch.test_executorch:Swappable", weights: swappable.pth}
inputs:
  first: {dtype: float32, shape: [batch, 4]}
  second: {dtype: float32, shape: [batch, 4]}
dimensions: {batch: {min: 1, max: 64}}
outputs: [a, b]
exports: [executorch]
backends: [executorch-xnnpack]
benchmark: {reference: executorch-xnnpack}
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Return the state of a run once everything is exported."""
    folder = tmp_path_factory.mktemp("config")
    torch.save(networks.made(Swappable()).state_dict(), folder / "swappable.pth")
    (folder / "swappable.yaml").write_text(CONFIG)
    return until("export", folder / "swappable.yaml", folder / "out", benchmark=False, trust=("tests.formats",))


def in_the_file(before, after):
    def change(path):
        data = path.read_bytes()
        assert data.count(before) == 1
        path.write_bytes(data.replace(before, after))

    return change


def test_a_healthy_program_passes_and_is_released_with_what_is_known_of_it(exported):
    release = released(exported)
    (model,) = standalone.read_manifest(release)["models"]
    assert model["facts"]["audit"].startswith("not audited: nothing here reads its operators; 100.0% of the weights")
    assert model["facts"]["delegate"] == "xnnpack"
    assert check(release) == []


WEIGHT = networks.made(Swappable()).fc.weight.numpy()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (in_the_file(WEIGHT.tobytes(), (WEIGHT * np.float32(1.01)).tobytes()), "output '[ab]' in case"),
        (in_the_file(b'["a","b"]', b'["b","a"]'), "output '[ab]' in case"),
        (in_the_file(b'["first","second"]', b'["second","first"]'), "inputs|output '[ab]' in case"),
    ],
    ids=["a weight", "outputs", "inputs"],
)
def test_a_changed_program_closes_the_gate(change, words, exported):
    with pytest.raises(GateError, match=words):
        proven(sabotaged(exported, "executorch", change))
