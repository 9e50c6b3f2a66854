"""Machines share results; nothing damaged, forged or by somebody else is ever used, and what is bad is said and made again."""

import json
import os
from pathlib import Path

import pytest

from pipeline.errors import UnavailableError
from pipeline.release import signing
from pipeline.run.sharing import KIND
from pipeline.storage import shared as sharing
from pipeline.storage.store import canonical_json, key
from tests.storage.places import machine, signer

ONE = key("one")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys")
    return {name: signer(folder, name) for name in ("ours", "theirs", "stranger")}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "shared").mkdir()
    return f"file://{tmp_path}/shared"


@pytest.fixture
def at(tmp_path, place, keys):
    """Return a function that gives a machine of a name, by default one that adds with our key."""

    def made(name, key="ours", trusted=()):
        return machine(place, tmp_path / name, key and keys[key], [keys[each] for each in trusted])

    return made


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Look again at once."""
    for name in ("_AGAIN_S", "_LATE_S"):
        monkeypatch.setattr(sharing, name, (0.01, 0.01))


def _files(tmp_path, folder):
    return sorted(each for each in (tmp_path / "shared" / folder).rglob("*") if each.is_file())


def test_a_second_machine_builds_nothing_and_is_told_who_did(at, keys):
    first, second = at("first"), at("second", key=None, trusted=["ours"])
    assert first.make(ONE) == second.make(ONE) == b"model"
    assert (first.built, second.built) == ([ONE], [])
    assert second.used == [("a result", keys["ours"].key_id)]
    assert first.used == []
    assert second.make(ONE) == b"model"  # from its own cache, which remembers who made it
    assert second.used == [("a result", keys["ours"].key_id)] * 2
    assert first.notices == second.notices == []


def test_what_was_made_before_the_place_was_named_is_added_when_it_is_used(at):
    first, second = at("first"), at("second")
    first.cache.local.put(ONE, lambda folder: first._fill(ONE, b"earlier", folder))
    assert first.make(ONE) == second.make(ONE) == b"earlier"
    assert second.built == []


def test_a_result_by_somebody_else_is_not_used_and_does_not_stand_in_the_way(at):
    foreign, ours = at("foreign", key="stranger"), at("ours")
    foreign.make(ONE, b"theirs")
    assert ours.make(ONE, b"ours") == b"ours"
    assert ours.make(key("two")) == b"model"
    assert len(ours.notices) == 1
    assert "whose key is not trusted: they are not used" in ours.notices[0]
    assert at("next").make(ONE) == b"ours"


def test_a_result_of_a_key_that_is_trusted_no_more_is_not_used_from_the_own_cache_either(at, tmp_path, place):
    at("first").make(ONE, b"ours")
    second = at("second", key="theirs", trusted=["ours"])
    assert second.make(ONE) == b"ours"
    without = at("second", key="theirs")
    assert not without.cache.has(ONE)
    assert without.make(ONE, b"theirs") == b"theirs"
    alone = machine(place, tmp_path / "third", None, [])
    assert alone.make(ONE, b"alone") == b"alone"


def test_a_machine_that_only_reads_adds_nothing(at, tmp_path):
    reading = at("reading", key=None, trusted=["ours"])
    reading.make(ONE)
    assert [*_files(tmp_path, "")] == []


def _flip(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _blob(tmp_path):
    (found,) = [each for each in _files(tmp_path, "blobs") if each.stat().st_size]
    return found


def _envelope(tmp_path):
    (path,) = _files(tmp_path, "actions")
    return path, json.loads(path.read_bytes())


def _resigned(tmp_path, keys, who, change=lambda _: None, kind=KIND):
    import base64

    path, envelope = _envelope(tmp_path)
    payload = json.loads(base64.b64decode(envelope["payload"]))
    change(payload)
    path.write_bytes(signing.seal(keys[who], kind, canonical_json(payload)))


def _changed(tmp_path, name, change):
    path, envelope = _envelope(tmp_path)
    envelope[name] = change(envelope[name])
    path.write_bytes(canonical_json(envelope))


def _copied(tmp_path, keys):
    """Put the record of another result in its place."""
    path, _ = _envelope(tmp_path)
    machine(f"file://{tmp_path}/shared", tmp_path / "other", keys["ours"]).make(key("other"), b"another")
    (other,) = [each for each in _files(tmp_path, "actions") if each != path]
    path.write_bytes(other.read_bytes())


TAMPERINGS = {
    "a bit of the blob": (lambda tmp, _: _flip(_blob(tmp)), "have another digest"),
    "a blob cut short": (lambda tmp, _: os.truncate(_blob(tmp), 2), "have another digest"),
    "an empty blob": (lambda tmp, _: os.truncate(_blob(tmp), 0), "have another digest"),
    "no blob": (lambda tmp, _: _blob(tmp).unlink(), "are not there"),
    "a bit of the record": (lambda tmp, _: _flip(_envelope(tmp)[0]), ""),
    "a record cut short": (lambda tmp, _: os.truncate(_envelope(tmp)[0], 100), "it is not signed"),
    "an empty record": (lambda tmp, _: os.truncate(_envelope(tmp)[0], 0), "it is not signed"),
    "no signature": (lambda tmp, _: _changed(tmp, "signatures", lambda _: []), "it is not signed"),
    "another payload": (lambda tmp, _: _changed(tmp, "payload", lambda _: "e30="), "its signature is wrong"),
    "signed by a stranger": (lambda tmp, keys: _resigned(tmp, keys, "stranger"), "by another key"),
    "signed as something else": (
        lambda tmp, keys: _resigned(tmp, keys, "ours", kind="application/vnd.in-toto+json"),
        "as something else",
    ),
    "another result's record": (_copied, "it is another result's"),
    "a file outside": (
        lambda tmp, keys: _resigned(
            tmp, keys, "ours", lambda each: each["files"].update({"../x": each["files"]["empty"]})
        ),
        "it is no record",
    ),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_was_tampered_with_is_never_used_is_said_once_and_healed(name, at, tmp_path, keys):
    tamper, said = TAMPERINGS[name]
    at("first").make(ONE, b"good model")
    tamper(tmp_path, keys)
    reading = at("reading", key=None, trusted=["ours"])
    assert reading.make(ONE, b"made again") == b"made again"
    second = at("second")
    assert second.make(ONE, b"good model") == b"good model"
    assert second.built == [ONE]
    for each in (reading, second):
        (notice,) = each.notices
        assert said in notice
        assert "made again" in notice
    third = at("third")
    assert third.make(ONE, b"never") == b"good model"
    assert (third.built, third.notices) == ([], [])


def test_of_two_writers_the_whole_one_is_used_where_the_other_is_bad(at, tmp_path):
    at("first").make(ONE, b"by us")
    _flip(_blob(tmp_path))
    at("second", key="theirs").make(ONE, b"by them")
    third = at("third", key=None, trusted=["ours", "theirs"])
    assert third.make(ONE) == b"by them"
    assert third.built == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_an_error_and_no_miss(at, tmp_path):
    at("first").make(ONE)
    (tmp_path / "shared" / "actions").chmod(0)
    try:
        with pytest.raises(UnavailableError, match="cannot be used"):
            at("second").make(ONE)
    finally:
        (tmp_path / "shared" / "actions").chmod(0o755)


def test_a_file_where_the_place_has_a_folder_is_an_error(at, tmp_path):
    (tmp_path / "shared" / "actions").write_text("")
    with pytest.raises(UnavailableError, match="cannot be used"):
        at("second").make(ONE)


def test_what_is_said_to_be_there_and_is_not_is_written_all_the_same(at, monkeypatch):
    first = at("first")
    create = type(first.shared.objects).create
    said = []

    def denying(place, name, content):
        if name.startswith(("actions/", "blobs/")) and name not in said:
            said.append(name)
            return False
        return create(place, name, content)

    monkeypatch.setattr(type(first.shared.objects), "create", denying)
    first.make(ONE)
    assert len(said) == 3
    second = at("second")
    assert second.make(ONE) == b"model"
    assert second.built == []
