"""Objects wherever they are keep the same promises, and what goes wrong is told apart: not there, not allowed, busy."""

import os
import re

import pytest

from pipeline.errors import UnavailableError
from pipeline.storage import objects
from tests import s3
from tests.storage.places import machine, signer


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("s3fs")
    with s3.serving() as environment, pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        yield


PLACES = ["file", "memory", "s3"]


@pytest.fixture(params=PLACES)
def place(request, tmp_path):
    if request.param == "s3":
        request.getfixturevalue("server")
        url = f"s3://{s3.BUCKET}/{tmp_path.name}"
    else:
        url = f"{request.param}://{tmp_path}/shared"
    return objects.opened(url, to_write=True)


def test_an_object_is_made_once_read_in_parts_replaced_and_removed(place):
    assert place.read("a/b", 0, 10) is None
    assert place.create("a/b", b"hello")
    assert not place.create("a/b", b"other")
    assert place.read("a/b", 0, 100) == b"hello"
    assert place.read("a/b", 1, 3) == b"el"
    place.replace("a/b", b"")
    assert place.read("a/b", 0, 10) == b""
    place.replace("a/c", b"123")
    assert place.names("a") == ["b", "c"]
    assert place.names("none") == []
    assert sorted(place.sizes("a")) == [("a/b", 0), ("a/c", 3)]
    place.remove("a/b")
    place.remove("a/b")
    assert place.read("a/b", 0, 10) is None
    assert place.names("a") == ["c"]


def test_a_file_is_made_as_bytes_are(place, tmp_path, monkeypatch):
    monkeypatch.setattr(objects, "CHUNK_BYTES", 1000)
    file = tmp_path / "large"
    file.write_bytes(os.urandom(5000))
    assert place.create("large", file)
    assert not place.create("large", file)
    assert place.read("large", 0, 10_000) == file.read_bytes()


@pytest.mark.usefixtures("server")
def test_a_second_machine_takes_from_s3_what_the_first_made(tmp_path):
    ours = signer(tmp_path, "ours")
    first, second = (machine(f"s3://{s3.BUCKET}/two", tmp_path / name, ours) for name in "ab")
    assert first.make("0" * 64) == second.make("0" * 64) == b"model"
    assert second.built == []


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("url", "variables", "said"),
    [
        ("s3://nobody-has-this/x", {}, "bucket does not exist"),
        (f"s3://{s3.BUCKET}/x", {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "Could not connect"),
    ],
)
def test_what_cannot_be_reached_is_an_error_and_no_miss(monkeypatch, url, variables, said):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    place = objects.opened(url, to_write=True, options={"skip_instance_cache": True})
    with pytest.raises(UnavailableError, match=re.escape(said)) as caught:
        objects.insisting(url, lambda: place.read("a", 0, 1))
    assert "--cache" in caught.value.hint
    with pytest.raises(UnavailableError):
        objects.insisting(url, lambda: place.create("a", b""))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("file://relative/path", "is no absolute path"),
        ("file:///nowhere/at/all", "there is no folder"),
        ("nothing://x", "is no address"),
    ],
)
def test_an_address_that_is_none_is_told(url, said):
    with pytest.raises(UnavailableError, match=said):
        objects.opened(url, to_write=True)


class _AnsweredError(Exception):
    def __init__(self, status, code=""):
        super().__init__(code)
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


def _cut_short():
    """Return what aiohttp raises for a body that ends before its announced length."""
    pytest.importorskip("aiohttp")
    from aiohttp.client_exceptions import ClientPayloadError
    from aiohttp.http_exceptions import ContentLengthError

    error = ClientPayloadError("not completed")
    error.__cause__ = ContentLengthError("14 of 29 bytes")
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), "missing"),
        (FileExistsError("x"), "there"),
        (PermissionError(13, "x"), "refused"),
        (ConnectionRefusedError(111, "x"), "refused"),
        (ConnectionResetError(104, "x"), "busy"),
        (TimeoutError("x"), "busy"),
        (_AnsweredError(404, "NoSuchKey"), "missing"),
        (_AnsweredError(404, "NoSuchBucket"), "refused"),
        (_AnsweredError(412), "there"),
        (_AnsweredError(409), "busy"),
        (_AnsweredError(503, "SlowDown"), "busy"),
        (_AnsweredError(500), "busy"),
        (_AnsweredError(403, "AccessDenied"), "refused"),
        (_AnsweredError(400, "ExpiredToken"), "refused"),
        (ValueError("x"), "refused"),
        (_cut_short(), "busy"),
    ],
)
def test_errors_are_told_apart(error, kind):
    assert objects.kind_of(error) == kind
    with pytest.raises(OSError, match="wrapped") as caught:
        raise OSError("wrapped") from error
    if not isinstance(error, (FileNotFoundError, FileExistsError, ValueError)):
        assert objects.kind_of(caught.value) == kind


def test_a_busy_place_is_asked_again_and_then_told(monkeypatch):
    monkeypatch.setattr(objects, "_FIRST_PAUSE_S", 0.001)
    answers = [TimeoutError("slow"), _AnsweredError(503), "there"]

    def ask():
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    assert objects.insisting("x://y", ask) == "there"
    answers[:] = [TimeoutError("slow")] * 20
    with pytest.raises(UnavailableError, match="stayed busy or silent"):
        objects.insisting("x://y", ask)
    assert len(answers) == 12
