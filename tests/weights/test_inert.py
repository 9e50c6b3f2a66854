"""Objects beside tensors are told and left unmade: the tensors load, and nothing of anybody's is imported or called."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pipeline.errors import UnsafeError, WeightsError
from pipeline.weights import headers, inspect, read
from tests.weights import abuses, inert_corpus
from tests.weights import assembler as asm

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CHECKPOINTS = dict(inert_corpus.checkpoints())
_seen: list[str] = []
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "import" and str(arguments[0]).partition(".")[0] in (*inert_corpus.FOREIGN, "innocent"):
        _seen.append(f"import {arguments[0]}")
    elif event == "pickle.find_class":
        _seen.append(f"find {arguments}")


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hold that nothing foreign is imported or looked up meanwhile, and that torch.load and pickle are not asked."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _seen.clear()

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("an unpickler was called")

    for name in ("torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler"):
        monkeypatch.setattr(name, refuse)
    yield
    assert _seen == []
    assert not [name for name in sys.modules if name.partition(".")[0] in ("lightning", "my_project", "innocent")]


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.usefixtures("untouched")
def test_a_checkpoint_with_objects_beside_its_tensors_loads_without_them(name: str, tmp_path: Path) -> None:
    for legacy in (False, True):
        for protocol in (2, 4):
            path = inert_corpus.save(
                CHECKPOINTS[name],
                tmp_path / "a.ckpt",
                _use_new_zipfile_serialization=not legacy,
                pickle_protocol=protocol,
            )
            if not headers.read(path).needs:
                continue  # what torch itself takes
            assert inspect.description_of(path).kind == "checkpoint with a state dict inside"
            loaded = read.load(path).tensors
            wanted = CHECKPOINTS[name]["state_dict"]
            assert list(loaded) == list(wanted)
            for key, tensor in wanted.items():
                assert loaded[key].dtype == tensor.dtype
                assert loaded[key].stride() == tensor.stride()
                assert loaded[key].equal(tensor)
            assert loaded["fc.weight"].data_ptr() == loaded["head.weight"].data_ptr()


def test_the_corpus_is_of_objects_that_torch_itself_would_make() -> None:
    assert len(CHECKPOINTS) >= 120
    assert len(inert_corpus.objects()) >= 40


@pytest.mark.parametrize("name", abuses.bodies(abuses.NOWHERE))
@pytest.mark.usefixtures("untouched")
def test_what_does_more_than_to_hold_objects_is_refused_beside_tensors(name: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    for protocol in (2, 4):
        path = tmp_path / "a.ckpt"
        path.write_bytes(abuses.file(abuses.bodies(marker)[name], protocol))
        for refuse in (read.load, inspect.description_of):
            with pytest.raises(UnsafeError) as caught:
                refuse(path)
            assert caught.value.exit_code == 3
    assert not marker.exists()


@pytest.mark.usefixtures("untouched")
def test_the_harmless_half_of_each_abuse_loads(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    path.write_bytes(abuses.file(abuses.THING))
    assert list(read.load(path).tensors) == ["fc.weight"]
    path.write_bytes(abuses.file(asm.call("innocent", "Runner", asm.text("x"))))
    assert inspect.description_of(path).held[0].shown == "Runner('x')"


def test_objects_without_tensors_and_beside_a_pickled_model_are_refused_as_ever(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "a.pth")
    torch.save({"args": argparse.Namespace(lr=1), "model": torch.nn.Linear(1, 1)}, tmp_path / "b.pth")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(UnsafeError, match=r"argparse\.Namespace"):
            read.load(tmp_path / name)


@pytest.mark.usefixtures("untouched")
def test_a_state_dict_in_a_subclass_of_dict_is_found(tmp_path: Path) -> None:
    saved = inert_corpus.AttributeDict(epoch=1, model=inert_corpus.AttributeDict(inert_corpus.state()))
    loaded = read.load(inert_corpus.save(saved, tmp_path / "a.ckpt"))
    assert loaded.tensors["part"].equal(inert_corpus.state()["part"])
    assert loaded.notes[0] == "unwrapped 'model' (also holds: epoch)"


@pytest.mark.usefixtures("untouched")
def test_an_entry_of_a_state_dict_that_is_an_object_is_left_out_and_said(tmp_path: Path) -> None:
    saved = {**inert_corpus.state(), "fc.extra": inert_corpus.Meter(), inert_corpus.Activation.GELU: torch.ones(1)}
    loaded = read.load(inert_corpus.save(saved, tmp_path / "a.ckpt"))
    assert list(loaded.tensors) == list(inert_corpus.state())
    assert loaded.notes == (
        "left out entries that are no tensors: fc.extra, <my_project.kinds.Activation>",
        "left out objects, which are read as data and never made: fc.extra (my_project.tracking.Meter)",
    )


@pytest.mark.usefixtures("untouched")
def test_tensors_hidden_in_an_object_are_none_of_the_state_dict(tmp_path: Path) -> None:
    meter = inert_corpus.Meter()
    meter.weight = torch.ones(5)
    loaded = read.load(inert_corpus.save({"state_dict": inert_corpus.state(), "meter": meter}, tmp_path / "a.ckpt"))
    assert list(loaded.tensors) == list(inert_corpus.state())


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.eye(2).to_sparse(), "sparse"),
        (torch.ones(2, dtype=torch.complex64).conj(), "conjugated or negated"),
    ],
)
def test_tensors_that_are_more_than_numbers_are_not_read_beside_objects(
    tensor: torch.Tensor, said: str, tmp_path: Path
) -> None:
    torch.save({"state_dict": {"fc.weight": tensor}, "args": argparse.Namespace()}, tmp_path / "a.ckpt")
    with pytest.raises(WeightsError, match=f"'fc.weight' is {said}") as caught:
        read.load(tmp_path / "a.ckpt")
    assert "torch.save(model.state_dict()" in str(caught.value.hint)


def test_what_is_written_into_loaded_tensors_does_not_reach_the_file(tmp_path: Path) -> None:
    torch.save({"state_dict": inert_corpus.state(), "args": argparse.Namespace()}, tmp_path / "a.ckpt")
    before = (tmp_path / "a.ckpt").read_bytes()
    read.load(tmp_path / "a.ckpt").tensors["fc.weight"].zero_()
    assert (tmp_path / "a.ckpt").read_bytes() == before


def test_a_flipped_bit_is_found_by_its_checksum_here_too(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.arange(1000.0)}, "args": argparse.Namespace()}, tmp_path / "a.ckpt")
    data = bytearray((tmp_path / "a.ckpt").read_bytes())
    data[3000] ^= 1
    (tmp_path / "a.ckpt").write_bytes(data)
    with pytest.raises(WeightsError, match="data/0 does not match its checksum"):
        read.load(tmp_path / "a.ckpt")


def test_numbers_in_another_order_of_bytes_are_not_taken_for_ours(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    whole = abuses.file(abuses.THING)
    path.write_bytes(whole.replace(b"little", b"big   "))
    with pytest.raises(WeightsError, match="in another order"):
        read.load(path, examine=False)
