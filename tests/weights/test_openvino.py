"""OpenVINO's files from their bytes alone: what is harmless is described, and a stranger's tricks are refused by rule."""

from __future__ import annotations

import tracemalloc

import pytest

from pipeline.errors import UnsafeError, WeightsError
from pipeline.formats.openvino.record import OPENVINO
from pipeline.weights import headers, markup, openvino
from pipeline.weights.inspect import description_of
from pipeline.weights.kinds import Kind
from tests.weights import ir


def test_a_harmless_file_is_known_described_and_may_be_opened(tmp_path):
    path = ir.written(tmp_path, ir.text())
    assert headers.read(path).kind is Kind.OPENVINO
    assert openvino.require_confined(path) == (tmp_path / "model.bin",)
    found = description_of(path)
    assert (found.kind, [(each.name, each.dtype, each.shape) for each in found.tensors]) == (
        "OpenVINO model",
        [("w", "float32", (3, 4))],
    )
    assert found.details["inputs"] == ["x"]
    assert found.details["outputs"] == ["y"]
    assert "--candidate" in found.next[0]


def test_a_file_without_constants_needs_no_other(tmp_path):
    first, _, rest = ir.LAYERS.partition('<layer id="1"')
    assert openvino.require_confined(ir.written(tmp_path, ir.text(first + rest.partition("</layer>")[2]), None)) == ()


@pytest.mark.parametrize("name", ir.HOSTILE)
def test_what_a_stranger_could_do_with_a_file_is_refused_by_its_rule(name, tmp_path):
    make, words = ir.HOSTILE[name]
    path = ir.written(tmp_path, make())
    for look in (
        openvino.require_confined,
        description_of,
        lambda each: OPENVINO.require_safe(each, ["model.xml", "model.bin"]),
    ):
        with pytest.raises(UnsafeError) as caught:
            look(path)
        assert words in caught.value.message
        assert caught.value.hint


def test_what_keeps_a_file_from_being_opened_is_a_detail_of_it(tmp_path):
    alone = description_of(ir.written(tmp_path, ir.text(), None)).details
    assert alone["cannot be opened"] == "model.xml needs 'model.bin', which is not beside it"
    assert alone["inputs"] == ["x"]


@pytest.mark.parametrize("name", ir.DAMAGED)
def test_a_damaged_file_is_refused_with_what_is_wrong(name, tmp_path):
    make, words = ir.DAMAGED[name]
    with pytest.raises(WeightsError) as caught:
        openvino.require_confined(ir.written(tmp_path, make()))
    assert words in caught.value.message
    assert caught.value.hint


def test_weights_behind_links_are_refused(tmp_path):
    found = ir.hostile(tmp_path)
    for name in ("weights behind a symbolic link", "weights behind a hard link"):
        with pytest.raises(UnsafeError, match="link"):
            openvino.require_confined(found[name])


def test_a_missing_bin_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"needs 'model\.bin', which is not beside it"):
        openvino.require_confined(ir.written(tmp_path, ir.text(), None))


@pytest.mark.parametrize("name", ["model", "model.ir", ".xml"])
def test_a_name_that_openvino_would_find_other_constants_by_is_refused(name, tmp_path):
    path = ir.written(tmp_path, ir.text()).rename(tmp_path / name)
    with pytest.raises(WeightsError, match=r"finds its constants by the name NAME\.xml"):
        openvino.require_confined(path)


def test_constants_in_a_file_that_is_not_the_releases_are_refused(tmp_path):
    path = ir.written(tmp_path, ir.text())
    OPENVINO.require_safe(path, ["model.xml", "model.bin"])
    with pytest.raises(UnsafeError, match=r"would read 'model\.bin', which is no file of the release"):
        OPENVINO.require_safe(path, ["model.xml"])


def test_constants_that_share_their_bytes_are_no_fault(tmp_path):
    second = '<layer id="9" name="v" type="Const" version="opset1"><data element_type="f32" shape="2" offset="4" size="8"/></layer>'
    assert openvino.require_confined(ir.written(tmp_path, ir.text(ir.LAYERS + second)))


def test_constants_inside_loops_and_branches_are_held_to_the_same(tmp_path):
    inner = '<layer id="0" name="in" type="Const" version="opset1"><data element_type="f32" shape="2" offset="44" size="8"/></layer>'
    loop = f'<layer id="9" name="l" type="Loop" version="opset5"><body><layers>{inner}</layers><edges/></body></layer>'
    with pytest.raises(UnsafeError, match="'in' ends at byte 52"):
        openvino.require_confined(ir.written(tmp_path, ir.text(ir.LAYERS + loop)))


def test_a_state_between_calls_is_told(tmp_path):
    state = '<layer id="9" name="kept" type="ReadValue" version="opset6"><data variable_id="v"/></layer>'
    assert description_of(ir.written(tmp_path, ir.text(ir.LAYERS + state))).details["keeps between calls"] == ["kept"]


def test_more_elements_than_any_network_has_are_refused_before_they_take_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(markup, "MAX_ELEMENTS", 10_000)
    path = ir.written(tmp_path, ir.text(ir.LAYERS + "<a/>" * 2_000_000))
    tracemalloc.start()
    with pytest.raises(UnsafeError, match="more than 10,000 elements"):
        openvino.require_confined(path)
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_a_text_that_only_mentions_such_a_file_is_a_text(tmp_path):
    for content in ("see <net version='11'>", "<html><net/></html>", "<nets/>", "# <net>"):
        (tmp_path / "a.xml").write_text(content)
        assert headers.read(tmp_path / "a.xml").kind is not Kind.OPENVINO
