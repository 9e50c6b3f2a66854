"""Remote weights: fetched once, kept under their digest, never believed without it."""

import hashlib

import fsspec
import pytest

from pipeline.errors import DigestError, UnavailableError, WeightsError
from pipeline.weights import remote

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def url():
    memory = fsspec.filesystem("memory")
    with memory.open("/store/model.pth", "wb") as file:
        file.write(CONTENT)
    yield "memory://store/model.pth"
    memory.store.clear()


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".lock")]


def test_a_remote_file_is_fetched_once_and_kept_under_its_digest(url, tmp_path):
    kept = remote.fetch(url, SHA256, tmp_path)
    assert kept.read_bytes() == CONTENT
    assert kept.name == "model.pth"
    assert SHA256 in kept.parts
    fsspec.filesystem("memory").store.clear()
    assert remote.fetch(url, SHA256, tmp_path) == kept


def test_another_file_than_the_one_named_is_refused_and_leaves_nothing(url, tmp_path):
    with pytest.raises(DigestError, match=SHA256) as caught:
        remote.fetch(url, "0" * 64, tmp_path)
    assert caught.value.exit_code == 1
    assert files(tmp_path) == []


def test_a_damaged_copy_is_fetched_again(url, tmp_path):
    kept = remote.fetch(url, SHA256, tmp_path)
    kept.write_bytes(b"damaged")
    assert remote.fetch(url, SHA256, tmp_path).read_bytes() == CONTENT


@pytest.mark.usefixtures("url")
def test_a_file_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(WeightsError, match=r"memory://store/none\.pth cannot be fetched"):
        remote.fetch("memory://store/none.pth", SHA256, tmp_path)
    assert files(tmp_path) == []


def test_a_kind_of_address_nobody_installed_names_the_package(tmp_path):
    with pytest.raises((UnavailableError, WeightsError)) as caught:
        remote.fetch("nonsense://store/model.pth", SHA256, tmp_path)
    assert "nonsense" in caught.value.message
