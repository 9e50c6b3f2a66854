from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from pipeline.errors import UnsafeError
from pipeline.weights import read
from pipeline.weights.guard import guarded

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda marker: os.system(f"touch {marker}"), r"os\.system"),  # noqa: S605 - what must be stopped
        (lambda marker: subprocess.run(["touch", marker], check=False), r"subprocess\.Popen"),
        (lambda _: socket.create_connection(("127.0.0.1", 9)), r"socket\."),
        (lambda _: socket.getaddrinfo("example.org", 80), r"socket\.getaddrinfo"),
        (lambda marker: marker.write_text("x"), "for writing"),
        (lambda _: exec("x = 1"), "made of a text"),  # noqa: S102 - what must be stopped
        (lambda marker: marker.symlink_to("x"), r"os\.symlink"),
    ],
)
def test_what_reading_weights_never_needs_ends_the_run(act: Callable[[Path], Any], told: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    with pytest.raises(UnsafeError, match=told), guarded(0, "w.pth"):
        act(marker)
    assert not marker.is_symlink()
    assert not marker.exists()


def test_swallowing_the_error_does_not_hide_the_event(tmp_path: Path) -> None:
    swallowed = contextlib.suppress(RuntimeError)
    with pytest.raises(UnsafeError, match=r"os\.system"), guarded(0, "w.pth"), swallowed:
        os.system(f"touch {tmp_path / 'marker'}")  # noqa: S605 - what must be stopped
    assert not (tmp_path / "marker").exists()


def test_the_same_acts_are_free_before_and_after(tmp_path: Path) -> None:
    with guarded(0, "w.pth"):
        torch.zeros(3)
    (tmp_path / "free").write_text("x")
    assert subprocess.run([sys.executable, "-c", ""], check=True).returncode == 0


def test_a_loader_that_ran_a_file_s_code_would_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The headers refuse such a file: here they are passed by, and the loader is the unsafe one.
    marker = tmp_path / "marker"

    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {marker}",)

    torch.save({"a": torch.ones(2), "b": Payload()}, tmp_path / "evil.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "good.pth")
    header = read.require_state_dict(tmp_path / "good.pth")
    monkeypatch.setattr(read, "require_state_dict", lambda *_, **__: header)
    real = torch.load
    monkeypatch.setattr(torch, "load", lambda path, **_: real(path, weights_only=False))
    with pytest.raises(UnsafeError, match="tried to do more than hold weights"):
        read.load(tmp_path / "evil.pth")
    assert not marker.exists()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_DATA bounds mappings on Linux only")
def test_memory_beyond_what_the_headers_declare_is_refused() -> None:
    with pytest.raises(UnsafeError, match="more memory than it declares"), guarded(0, "w.pth"):
        bytearray(3 << 30)
    assert len(bytearray(1 << 20)) == 1 << 20
