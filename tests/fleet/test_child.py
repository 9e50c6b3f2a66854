"""What a node is told of a shared cache is what the run that sends the work was given; a private key does not travel."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.fleet import child
from pipeline.fleet.ray import travel
from pipeline.release.signing import generate
from pipeline.run.plan import Settings
from pipeline.run.sharing import SharedCache, opened


@pytest.fixture
def settings(tmp_path):
    own, others = (generate(tmp_path / name) for name in ("own", "others"))
    return Settings(out=tmp_path, shared=SharedCache(f"file://{tmp_path}/cache", own[0], (others[1],)))


def test_a_node_uses_the_same_cache_with_the_same_keys(settings, tmp_path):
    node = tmp_path / "node"
    node.mkdir()
    found = child._shared({"shared": travel.shared(settings), "out": str(node)})
    assert (found.url, found.key) == (settings.shared.url, settings.shared.key)
    assert [each.read_bytes() for each in found.trusted] == [each.read_bytes() for each in settings.shared.trusted]
    assert all(each.parent == node for each in found.trusted)
    assert set(opened(found).readers) == set(opened(settings.shared).readers)


def test_runs_that_trust_others_do_not_change_what_a_node_keeps_for_one_another(settings, tmp_path):
    told = travel.shared(settings)
    first = child._shared({"shared": told, "out": str(tmp_path)})
    other = generate(tmp_path / "third")[1].read_text("utf-8")
    child._shared({"shared": {**told, "trusted": [other]}, "out": str(tmp_path)})
    assert [each.read_text("utf-8") for each in first.trusted] == told["trusted"]


def test_a_node_without_the_private_key_says_where_it_must_lie(settings, tmp_path):
    told = travel.shared(settings)
    settings.shared.key.unlink()
    with pytest.raises(InputError, match="private keys do not travel"):
        child._shared({"shared": told, "out": str(tmp_path)})


def test_without_a_shared_cache_none_is_told(tmp_path):
    assert travel.shared(Settings(out=tmp_path)) is None
    assert child._shared({"out": str(tmp_path)}) is None
