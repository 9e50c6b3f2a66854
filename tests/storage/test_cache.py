"""A result is found under its key, whole, or made again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pipeline.errors import InputError
from pipeline.storage.cache import Cache
from pipeline.storage.store import digest_file, key


@pytest.fixture
def notices():
    return []


@pytest.fixture
def cache(tmp_path, notices):
    return Cache(tmp_path / "cache", notices.append)


def _fill(directory):
    (directory / "sub").mkdir()
    (directory / "sub" / "model.bin").write_bytes(bytes(1000))
    (directory / "facts.json").write_bytes(b"{}")


def _never(_directory):
    raise AssertionError("built again")


def test_what_was_put_is_got_and_not_built_again(cache, notices):
    name = key("a")
    assert cache.get(name) is None
    stored = cache.put(name, _fill)
    assert cache.get(name) == stored
    assert cache.put(name, _never) == stored
    assert (stored / "sub" / "model.bin").read_bytes() == bytes(1000)
    assert notices == []


def test_a_failed_build_leaves_no_entry(cache):
    with pytest.raises(AssertionError):
        cache.put(key("a"), _never)
    assert cache.get(key("a")) is None
    assert cache.entries() == ()


def _flip(entry):
    path = entry / "files" / "sub" / "model.bin"
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)


_DAMAGES = {
    "flipped": _flip,
    "truncated": lambda entry: os.truncate(entry / "files" / "sub" / "model.bin", 10),
    "removed": lambda entry: (entry / "files" / "facts.json").unlink(),
    "added": lambda entry: (entry / "files" / "more").write_bytes(b""),
    "record removed": lambda entry: (entry / "record.json").unlink(),
    "record garbage": lambda entry: (entry / "record.json").write_bytes(b'{"a'),
    "record of another type": lambda entry: (entry / "record.json").write_bytes(b"[]"),
    "of another key": lambda entry: (entry / "record.json").write_bytes(
        (entry / "record.json").read_bytes().replace(entry.name.encode(), b"0" * 64)
    ),
    "linked elsewhere": lambda entry: (
        (entry / "files").rename(entry / "elsewhere"),
        (entry / "files").symlink_to(entry / "elsewhere"),
    ),
    "linked": lambda entry: (
        (entry / "files" / "facts.json").rename(entry / "elsewhere"),
        (entry / "files" / "facts.json").symlink_to(entry / "elsewhere"),
    ),
}


@pytest.mark.parametrize("damage", _DAMAGES.values(), ids=_DAMAGES)
def test_a_damaged_entry_is_said_removed_and_built_again(cache, notices, damage):
    name = key("a")
    damage(cache.put(name, _fill, "the onnx export of a").parent)
    assert cache.get(name) is None
    assert len(notices) == 1
    assert "damaged" in notices[0]
    assert "made again" in notices[0]
    assert not (cache.root / name).exists()
    stored = cache.put(name, _fill)
    assert digest_file(stored / "facts.json") == key({})
    assert cache.get(name) == stored


def test_pruning_removes_the_least_recently_used_first(cache):
    names = [key(index) for index in range(3)]
    for age, name in enumerate(names):
        entry = cache.put(name, _fill).parent
        os.utime(entry / "record.json", (1000 + age, 1000 + age))
    cache.get(names[0])
    size_bytes = cache.entries()[0].size_bytes
    removed = cache.prune(2 * size_bytes)
    assert [entry.key for entry in removed] == [names[1]]
    assert {entry.key for entry in cache.entries()} == {names[0], names[2]}
    assert cache.prune(0)
    assert cache.entries() == ()


def test_nothing_is_pruned_under_a_run(cache):
    cache.put(key("a"), _fill)
    with cache.in_use(), cache.in_use(), pytest.raises(InputError, match="in use by a run"):
        cache.prune(0)
    assert cache.get(key("a"))
    assert len(cache.prune(0)) == 1


def test_entries_say_what_they_are(cache):
    cache.put(key("a"), _fill, "the onnx export of a")
    (entry,) = cache.entries()
    assert entry.about == "the onnx export of a"
    assert entry.size_bytes > 1000


_BUILDER = """
import sys
from pathlib import Path
from pipeline.storage.cache import Cache
def fill(directory):
    print("built", flush=True)
    (directory / "a").write_bytes(b"1")
for index in range(20):
    Cache(Path(sys.argv[1])).put(f"{index:064d}", fill)
"""


def test_several_processes_build_each_entry_exactly_once(tmp_path):
    command = [sys.executable, "-c", _BUILDER, str(tmp_path)]
    builders = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) for _ in range(4)
    ]
    outputs = [builder.communicate()[0] for builder in builders]
    assert [builder.returncode for builder in builders] == [0] * 4
    assert "".join(outputs).count("built") == 20
