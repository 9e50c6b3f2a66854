"""A digest is taken once and holds for the file that it was taken of, and for no other."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import WeightsError
from pipeline.weights import read, verified

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipeline.weights.verified import Verified

STATE = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.zeros(3)}
OTHER = {"fc.weight": torch.ones(3, 4) * 2, "fc.bias": torch.zeros(3)}


def zipped(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path)


def legacy(path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, path, _use_new_zipfile_serialization=False)


def safetensors(path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, path)


def sharded(path: Path, state: dict[str, torch.Tensor]) -> None:
    path.write_text(json.dumps({"weight_map": {"fc.weight": "1.safetensors", "fc.bias": "2.bin"}}))
    save_file({"fc.weight": state["fc.weight"]}, path.with_name("1.safetensors"))
    torch.save({"fc.bias": state["fc.bias"]}, path.with_name("2.bin"))


FORMS = {"net.pth": zipped, "old.pth": legacy, "net.safetensors": safetensors, "net.safetensors.index.json": sharded}


@pytest.fixture(params=list(FORMS))
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Callable[..., None]]:
    path = tmp_path / request.param
    FORMS[request.param](path, STATE)
    return path, FORMS[request.param]


def verify(path: Path) -> Verified:
    return verified.verify(path, read.require_state_dict(path))


def files_of(path: Path) -> list[Path]:
    return sorted(each for each in path.parent.iterdir() if each.is_file())


def test_what_was_verified_is_loaded_without_its_digest_checksums_and_numbers_being_looked_at_again(saved, monkeypatch):
    path, _ = saved
    known = verify(path)
    assert known.sha256 == read.load(path).sha256

    def never(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(verified, "digest", never)
    monkeypatch.setattr(read.archive, "damaged", never)
    monkeypatch.setattr(read, "_doubts", never)
    loaded = read.load(path, verified=known, examine=False)
    assert loaded.sha256 == known.sha256
    assert all(loaded.tensors[name].equal(tensor) for name, tensor in STATE.items())


def overwritten(path: Path, save: Callable[..., None]) -> None:
    save(path, OTHER)


def replaced(path: Path, save: Callable[..., None]) -> None:
    folder = path.parent / "elsewhere"
    folder.mkdir()
    save(folder / path.name, OTHER)
    for each in folder.iterdir():
        each.replace(path.parent / each.name)


def backdated(path: Path, save: Callable[..., None]) -> None:
    before = {each: each.stat() for each in files_of(path)}
    save(path, OTHER)
    for each, was in before.items():
        assert each.stat().st_size == was.st_size
        os.utime(each, ns=(was.st_atime_ns, was.st_mtime_ns))


@pytest.mark.parametrize("change", [overwritten, replaced, backdated])
def test_another_file_in_its_place_is_refused_with_both_digests(saved, change):
    path, save = saved
    known = verify(path)
    change(path, save)
    found = verify(path).sha256
    with pytest.raises(
        WeightsError, match=rf"{path.name} changed during the run: .* is {found} now, and was {known.sha256}"
    ):
        read.load(path, verified=known, examine=False)


def touched(path: Path) -> None:
    for each in files_of(path):
        os.utime(each)


def linked(path: Path) -> None:
    for each in files_of(path):
        os.link(each, each.with_name(f"copy-{each.name}"))


def copied_back(path: Path) -> None:
    for each in files_of(path):
        data = each.read_bytes()
        each.unlink()
        each.write_bytes(data)


@pytest.mark.parametrize("change", [touched, linked, copied_back])
def test_the_same_bytes_are_the_same_file_whatever_happened_to_it(saved, change):
    path, _ = saved
    known = verify(path)
    change(path)
    assert verify(path).stamps != known.stamps
    assert read.load(path, verified=known, examine=False).sha256 == known.sha256


def test_a_change_after_the_first_look_is_seen_too(saved, monkeypatch):
    path, save = saved
    known, require, looks = verify(path), read.require_unchanged, []

    def changing(*given: object) -> None:
        looks.append(given)
        require(*given)
        for each in files_of(path) if len(looks) == 1 else ():
            each.unlink()
        save(path, OTHER)

    monkeypatch.setattr(read, "require_unchanged", changing)
    with pytest.raises(WeightsError, match="changed during the run"):
        read.load(path, verified=known, examine=False)
    assert len(looks) == 2


def test_a_change_while_its_digest_is_taken_is_seen(saved, monkeypatch):
    path, _ = saved
    digest = verified.digest

    def touching(file: Path) -> str:
        os.utime(path)
        return digest(file)

    monkeypatch.setattr(verified, "digest", touching)
    with pytest.raises(WeightsError, match="changed while it was read"):
        verify(path)


def test_damage_is_still_seen_by_whoever_examines_the_file(tmp_path):
    zipped(tmp_path / "net.pth", {"fc.weight": torch.ones(64, 64)})
    data = bytearray((tmp_path / "net.pth").read_bytes())
    data[data.index(torch.ones(8).numpy().tobytes()) + 2] ^= 1
    (tmp_path / "net.pth").write_bytes(data)
    known = verify(tmp_path / "net.pth")
    read.load(tmp_path / "net.pth", verified=known, examine=False)
    with pytest.raises(WeightsError, match="does not match its checksum"):
        read.load(tmp_path / "net.pth", verified=known)
