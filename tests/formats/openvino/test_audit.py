"""The audit of OpenVINO files accounts for all of a healthy one, and objects to what outputs cannot show."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import UnsafeError
from pipeline.formats.format import AuditSubject
from pipeline.formats.openvino.audit import audit
from pipeline.formats.openvino.graph import read, signature
from pipeline.formats.openvino.record import OPENVINO
from pipeline.parity import jobs
from tests.formats import networks
from tests.formats.openvino import made
from tests.formats.openvino.test_export import OWN
from tests.formats.test_exporters import export
from tests.parity.networks import INTERFACE, audited, job
from tests.weights import ir

pytestmark = pytest.mark.skipif(OPENVINO.probe() is not None, reason=str(OPENVINO.probe()))


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    from pipeline.formats.onnx import export as exporter

    folder = tmp_path_factory.mktemp("audit")
    module = audited()
    written = exporter.export(job(module, folder), exporter.OnnxOptions())
    return made.derived(written, INTERFACE, folder / "ir"), jobs.arrays_of(module)


@pytest.fixture
def file(healthy, tmp_path):
    """A copy of the healthy file to do harm to."""
    for each in healthy[0].files:
        shutil.copyfile(each, tmp_path / each.name)
    return tmp_path / "model.xml"


@pytest.fixture
def judged(healthy):
    subject = AuditSubject(healthy[1], healthy[0].program, lambda: (None, "not asked"))
    return lambda path: audit(path, subject)


def test_every_element_of_our_own_file_is_accounted_for(file, judged):
    found = judged(file)
    assert found["problems"] == []
    assert found["passed"]
    assert found["unaccounted"] == []
    assert sum(found["accounted"].values()) == found["elements"] > 1000


@pytest.mark.parametrize("name", OWN)
def test_files_of_other_networks_are_no_cause_for_alarm(name, tmp_path):
    network, interface = OWN[name]
    module = networks.made(network())
    state = jobs.arrays_of(module)
    onnx = export(module, interface, "onnx", tmp_path / "onnx")
    file = made.derived(onnx, interface, tmp_path).files[0]
    found = audit(file, AuditSubject(state, onnx.program, lambda: (None, "not asked")))
    assert found["problems"] == []
    assert found["share"] == 0


def test_a_weight_behind_a_dead_unit_fails_with_the_number_of_differing_elements(file, judged):
    def scale_dead(value):
        value[:, 3] *= 1.02
        return value

    made.edit_constant(file, "fc2.weight", scale_dead)
    (problem,) = judged(file)["problems"]
    assert problem["nearest"] == "fc2.weight"
    assert "16 of 256 elements differ" in problem["problem"]


def test_a_file_in_float16_fails_and_is_named_as_such(file, judged):
    made.rounded(file)
    found = judged(file)
    assert not found["passed"]
    named = {each["nearest"]: each["problem"] for each in found["problems"]}
    assert "is fc1.weight rounded to float16, and the network has it in float32" in named["fc1.weight"]


def test_weights_rounded_to_float16_in_place_fail(file, judged):
    made.edit_constant(file, "fc1.weight", lambda value: value.astype(np.float16).astype(np.float32))
    (problem,) = judged(file)["problems"]
    assert problem["nearest"] == "fc1.weight"


def test_a_square_weight_the_wrong_way_round_fails_although_it_is_bit_equal(file, judged):
    made.edit_constant(file, "fc2.weight", lambda value: value.T)
    (problem,) = judged(file)["problems"]
    assert problem["problem"] == "is transposed, where it should be equal"


def test_two_constants_that_changed_places_fail(file, judged):
    text = file.read_text()
    first, second = (
        next(line for line in text.split("<layer ") if f'name="{name}" type="Const"' in line)
        for name in ("fc2.bias", "fc1.bias")
    )
    swapped = (
        text.replace(first, "@")
        .replace(second, second.replace('name="fc1.bias"', 'name="fc2.bias"'))
        .replace("@", first.replace('name="fc2.bias"', 'name="fc1.bias"'))
    )
    ids = [each.partition('id="')[2].partition('"')[0] for each in (first, second)]
    swapped = (
        swapped.replace(f'from-layer="{ids[0]}"', "@")
        .replace(f'from-layer="{ids[1]}"', f'from-layer="{ids[0]}"')
        .replace("@", f'from-layer="{ids[1]}"')
    )
    file.write_text(swapped)
    assert not judged(file)["passed"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('eps="9.99', 'eps="2.99', "which no operator of the network says"),
        ('approximation_mode="ERF"', 'approximation_mode="TANH"', "is tanh, and the network says none"),
    ],
)
def test_a_number_that_the_network_does_not_say_fails(file, judged, old, new, words):
    made.edit_text(file, old, new)
    (problem,) = judged(file)["problems"]
    assert words in problem["problem"]


@pytest.mark.parametrize(
    ("kind", "words"), [("RandomUniform", "draws random numbers"), ("ReadValue", "keeps a state between calls")]
)
def test_chance_and_memory_are_named_first(file, judged, kind, words):
    layer = f'<layer id="9000" name="odd" type="{kind}" version="opset6"><data/></layer></layers>'
    made.edit_text(file, "</layers>", layer)
    assert words in judged(file)["problems"][0]["problem"]


def test_nothing_is_audited_that_may_not_be_opened(tmp_path, judged):
    path = ir.written(tmp_path, ir.HOSTILE["a constant past the end"][0]())
    with pytest.raises(UnsafeError):
        judged(path)


def test_the_signature_has_names_dtypes_and_fixed_sizes(tmp_path):
    found = signature(ir.written(tmp_path, ir.text()))
    assert found.inputs == (("x", "float32", ("?", 4)),)
    assert found.outputs == (("y", "float32", None),)


def test_constants_are_read_by_ourselves_as_openvino_reads_them(healthy):
    from pipeline.formats.openvino import library

    model = library.load().Core().read_model(str(healthy[0].files[0]))
    theirs = {
        each.get_friendly_name(): each.get_data() for each in model.get_ops() if each.get_type_name() == "Constant"
    }
    ours = {each.name: each.value for each in read(Path(healthy[0].files[0])).constants}
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name])
