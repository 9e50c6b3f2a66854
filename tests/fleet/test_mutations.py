"""A report of any form is shown or said to be unreadable: whatever stands in place of whatever value of a real one."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from pipeline.fleet.league.against import against
from pipeline.fleet.league.table import collect
from pipeline.report import league_page
from pipeline.report.league import League
from tests.fleet.releases import benchmark, release

ODD = (
    None,
    True,
    -1,
    0,
    2**70,
    1e308,
    1e-320,
    "",
    "inf",
    "nan",
    "\x00",
    "\ud800",
    "🙂" * 500,
    [],
    {},
    [[]],
    {"": None},
    [0, 0],
)
FILES = ("manifest.json", "report/parity.json", "report/benchmark.json", "report/recommended.json")


def places(value, path=()):
    """Yield the path of every value."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from places(each, (*path, key))


def changed(value, path, new):
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], new)
    return copy


@pytest.mark.parametrize("name", FILES)
def test_whatever_stands_in_place_of_whatever_value_a_table_comes_of_it(content, tmp_path, name, monkeypatch):
    monkeypatch.setattr("pipeline.fleet.league.table._check_sums", lambda _: None)  # a stranger writes these too
    chosen = {"variant": "onnxruntime-cpu", "backend": "onnxruntime-cpu", "artifact": "onnx", "options": {}}
    best = {
        "schema_version": 1,
        "digest": "",
        "objective": "latency",
        "processor": "",
        "result": "best",
        "choice": chosen,
    }
    written = release(
        tmp_path, content, times=benchmark(peaks={"onnxruntime-cpu": [1, 2]}), **{"recommended.json": best}
    )
    before, original = collect([tmp_path]), json.loads((written / name).read_bytes())
    rng = random.Random(name)
    paths = list(places(original))
    states = set()
    for _ in range(150):
        path = rng.choice(paths)
        (written / name).write_text(json.dumps(changed(original, path, rng.choice(ODD))))
        found = collect([tmp_path])
        held = against(found, before, margin=0.05)
        whole = found.model_copy(update={"against": held})
        assert League.from_text(json.dumps(whole.to_json(), allow_nan=False))
        assert league_page.text(whole)
        states |= {each.state for each in found.entries}
    assert league_page.render(whole)
    assert states == ({"released"} if name.endswith("recommended.json") else {"released", "damaged"})
    shutil.rmtree(written)


def test_whatever_stands_in_an_older_table_it_is_compared_or_refused(content, tmp_path):
    release(tmp_path, content, times=benchmark(peaks={"onnxruntime-cpu": [1, 2]}))
    new = collect([tmp_path])
    original = new.to_json()
    rng = random.Random(0)
    paths = list(places(original))
    compared = 0
    for _ in range(1000):
        try:
            old = League.from_text(json.dumps(changed(original, rng.choice(paths), rng.choice(ODD))))
        except ValueError:
            continue
        compared += 1
        for pair in ((new, old), (old, new)):
            assert json.dumps(against(*pair, margin=0.05).to_json(), allow_nan=False)
    assert compared > 100
