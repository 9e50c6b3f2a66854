"""Nothing is written in part, nothing damaged is believed."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError, UnavailableError
from pipeline.storage.store import atomic_directory, atomic_write, canonical_json, key, lock, private_directory, sweep

# Canonical JSON


@pytest.mark.parametrize(
    ("number", "text"),
    [  # the samples of RFC 8785, appendix B, as the doubles they are
        (0.0, "0"),
        (-0.0, "0"),
        (5e-324, "5e-324"),
        (-5e-324, "-5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (9007199254740992.0, "9007199254740992"),
        (295147905179352830000.0, "295147905179352830000"),
        (9.999999999999997e22, "9.999999999999997e+22"),
        (1e23, "1e+23"),
        (1.0000000000000001e23, "1.0000000000000001e+23"),
        (999999999999999700000.0, "999999999999999700000"),
        (999999999999999900000.0, "999999999999999900000"),
        (1e21, "1e+21"),
        (9.999999999999997e-7, "9.999999999999997e-7"),
        (0.000001, "0.000001"),
        (333333333.3333332, "333333333.3333332"),
        (-0.0000033333333333333333, "-0.0000033333333333333333"),
        (1424953923781206.2, "1424953923781206.2"),
        (100, "100"),
        (1.5, "1.5"),
        (123e-20, "1.23e-18"),
    ],
)
def test_numbers_are_written_as_ecmascript_writes_them(number, text):
    assert canonical_json(number) == text.encode()


def test_keys_are_sorted_by_utf16_code_units_and_strings_escaped_as_the_rfc_shows():
    value = {"€": 1, "\r": 2, "\ufb33": 3, "1": 4, "😀": 5, "\x80": 6, "ö": 7}
    assert [*json.loads(canonical_json(value))] == ["\r", "1", "\x80", "ö", "€", "😀", "\ufb33"]
    assert canonical_json('€$\x0f\nA\'B"\\"/') == '"€$\\u000f\\nA\'B\\"\\\\\\"/"'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, 2**53 + 1, "\ud800", {"\ud800": 1}])
def test_what_json_cannot_hold_is_refused(value):
    with pytest.raises(InputError):
        canonical_json(value)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=60)
@given(_JSON)
def test_canonical_json_is_read_back_equal_and_is_a_fixed_point(value):
    text = canonical_json(value)
    assert json.loads(text, parse_int=lambda digits: int(float(digits))) == value
    assert canonical_json(json.loads(text)) == text


def test_a_key_does_not_depend_on_the_order_of_insertion():
    assert key({"a": 1, "b": [2]}) == key({"b": [2], "a": 1.0})
    assert key({"a": 1}) != key({"a": 2})


# Atomic writes


def _names(root):
    return sorted(path.name for path in root.iterdir())


def test_a_directory_appears_whole_with_the_usual_permissions_and_leaves_nothing_else(tmp_path):
    with atomic_directory(tmp_path / "final") as temporary:
        assert temporary.parent == tmp_path
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_bytes(b"1")
        assert not (tmp_path / "final").exists()
    assert _names(tmp_path) == ["final"]
    assert (tmp_path / "final" / "sub" / "a").read_bytes() == b"1"
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "final").stat().st_mode == (tmp_path / "usual").stat().st_mode


def _build(final, content, **options):
    with atomic_directory(final, **options) as temporary:
        (temporary / "b").write_bytes(b"first")
        (temporary / "a").write_bytes(content)


def test_a_failing_block_leaves_nothing(tmp_path):
    with pytest.raises(TypeError):
        _build(tmp_path / "final", "text, not bytes")
    assert _names(tmp_path) == []


def test_an_equal_directory_stays_another_one_is_refused_unless_it_is_to_be_replaced(tmp_path):
    final = tmp_path / "final"
    _build(final, b"1")
    inode = final.stat().st_ino
    _build(final, b"1")
    assert final.stat().st_ino == inode
    with pytest.raises(InputError, match="holds something else"):
        _build(final, b"2")
    assert (final / "a").read_bytes() == b"1"
    _build(final, b"2", replace=True)
    assert (final / "a").read_bytes() == b"2"


def test_a_file_is_replaced_whole(tmp_path):
    atomic_write(tmp_path / "latest", b"old")
    atomic_write(tmp_path / "latest", b"new")
    assert (tmp_path / "latest").read_bytes() == b"new"
    assert _names(tmp_path) == ["latest"]


def _build_until(final, error):
    with atomic_directory(final) as temporary:
        (temporary / "a").write_bytes(b"1")
        raise error


@pytest.mark.parametrize(
    ("number", "kind", "exit_code", "words"),
    [
        (errno.ENOSPC, UnavailableError, 4, "no space left"),
        (errno.EIO, UnavailableError, 4, "input/output error"),
        (errno.EACCES, InputError, 2, "permission denied"),
        (errno.EROFS, InputError, 2, "read-only"),
    ],
)
def test_what_the_disk_reports_while_writing_is_one_clear_error(tmp_path, number, kind, exit_code, words):
    with pytest.raises(kind, match=words) as caught:
        _build_until(tmp_path / "final", OSError(number, os.strerror(number), "b"))
    assert caught.value.exit_code == exit_code
    assert caught.value.hint
    assert _names(tmp_path) == []


def _build_on_full_device(final):
    with atomic_directory(final) as temporary:
        (temporary / "full").symlink_to("/dev/full")
        (temporary / "full").write_bytes(b"1")


def test_a_really_full_device_is_one_clear_error(tmp_path):
    with pytest.raises(UnavailableError, match="no space left"):
        _build_on_full_device(tmp_path / "final")
    assert _names(tmp_path) == []


@pytest.mark.parametrize("place", ["/proc", "/proc/none"])
def test_a_place_where_nothing_can_be_made_is_an_input_error(place):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(InputError, match="cannot be made there"):
        atomic_write(Path(place) / "out.json", b"{}")
    with pytest.raises(InputError, match="cannot be made there"), lock(Path(place) / "none" / "held.lock", "waiting"):
        pass


def test_a_path_too_long_and_a_file_in_the_way_are_input_errors(tmp_path):
    with pytest.raises(InputError, match="too long"):
        atomic_write(tmp_path / ("n" * 300) / "file", b"")
    (tmp_path / "file").write_bytes(b"")
    for final in (tmp_path / "file" / "final", tmp_path / "file" / "below" / "final"):
        with pytest.raises(InputError, match="cannot write"):
            atomic_write(final, b"")
    assert _names(tmp_path) == ["file"]


_HOLDER = """
import sys, time
from pathlib import Path
from pipeline.storage.store import lock, private_directory
root = Path(sys.argv[1])
with private_directory(root) as temporary, lock(root / "held.lock", "waiting"):
    (temporary / "half").write_bytes(b"1")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_leaves_is_swept_its_lock_is_free_and_a_living_one_is_left_alone(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "ready\n"
    with private_directory(tmp_path) as mine:
        assert sweep(tmp_path) == ()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
        (swept,) = sweep(tmp_path)
        assert f"-{holder.pid}-" in swept.name
        assert mine.is_dir()
    with lock(tmp_path / "held.lock", "must not wait"):
        assert _names(tmp_path) == ["held.lock"]


def test_a_lock_is_held_by_one_at_a_time_and_waiting_is_said(tmp_path, caplog):
    order = []

    def second():
        with lock(tmp_path / "lock", "waiting for the first"):
            order.append("second")

    with lock(tmp_path / "lock", "never said"):
        thread = threading.Thread(target=second)
        thread.start()
        while not caplog.messages:
            time.sleep(0.01)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert caplog.messages == ["waiting for the first"]
