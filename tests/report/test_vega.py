"""The library of the plots is put together once, and again where what was kept cannot be believed or nothing can be kept."""

import pytest

from pipeline.report import vega

LIBRARY = "a('<\\/script>')"


@pytest.fixture
def bundles(monkeypatch, tmp_path):
    """Return what was asked to be put together."""
    import vl_convert

    asked = []
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda _, version: asked.append(version) or "a('</script>')")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return asked


def library(version="6.1"):
    vega.library.cache_clear()
    return vega.library(version)


@pytest.fixture(autouse=True, scope="module")
def forgotten():
    yield
    vega.library.cache_clear()


def test_it_is_put_together_once_for_each_version(bundles):
    assert [library(), library(), library("5.8")] == [LIBRARY] * 3
    assert bundles == ["6.1", "5.8"]


def test_one_that_was_damaged_is_made_again(bundles, tmp_path):
    library()
    (kept,) = (tmp_path / "cache").rglob("library.js")
    kept.write_text("hostile()")
    assert library() == LIBRARY
    assert len(bundles) == 2


def test_where_nothing_can_be_kept_it_is_put_together_all_the_same(bundles, tmp_path):
    (tmp_path / "cache").write_text("a file in the way")
    assert [library(), library()] == [LIBRARY] * 2
    assert len(bundles) == 2
