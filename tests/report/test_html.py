"""What takes long to put together is put together beside other work, and once."""

import threading

import pytest

from pipeline.report import html


@pytest.fixture
def slow(monkeypatch):
    """A preparation that lasts until it is told to end."""
    end = threading.Event()
    monkeypatch.setattr(html, "_prepare", lambda: end.wait(60))
    yield end
    end.set()
    html.prepared()


def test_nobody_waits_for_what_is_prepared_but_who_asks_whether_it_is(slow):
    html.prepare()
    waiting = threading.Thread(target=html.prepared)
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    slow.set()
    waiting.join(60)
    assert not waiting.is_alive()


def test_without_the_packages_that_draw_nothing_is_prepared(slow, monkeypatch):
    monkeypatch.setattr(html, "PACKAGES", ("no_such_package",))
    html.prepare()
    html.prepared()
    assert not slow.is_set()
