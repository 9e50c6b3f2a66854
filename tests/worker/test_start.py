"""A worker that is forked from a template is as one that was started afresh, and is started afresh where it would not be."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import WorkerError
from pipeline.parity import oracle
from pipeline.worker import start as starting
from pipeline.worker.process import LocalRunner
from tests.worker import jobs

RUNNER = LocalRunner(packages=("tests",))
TORCH = ("torch",)

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="workers are forked on Linux only")


@pytest.fixture
def own_template(monkeypatch):
    """Have a template of one's own, and leave none."""
    with monkeypatch.context() as patched:
        patched.setattr(starting, "_template", None)
        yield
        starting.stop_template()


def seen(*, threads=1, modules=TORCH, **options):
    with RUNNER.start("the worker", threads=threads, modules=modules, **options) as worker:
        return worker.call(jobs.LookAround(), timeout_s=60)


def told(module="torch", **options):
    """Return the parent of a worker, and whether it has a module, without importing anything for that."""
    with RUNNER.start("the worker", threads=1, **options) as worker:
        return worker.call(jobs.Tell(module=module), timeout_s=60)


def test_workers_share_what_one_process_has_imported():
    first, second = seen(), seen()
    assert first.parent == second.parent != os.getpid()
    assert first.loaded
    assert second.loaded
    assert first.random != second.random  # or networks that draw would seem not to


def test_a_forked_worker_is_as_a_fresh_one(monkeypatch, tmp_path):
    seen()  # the template is there before anything changes
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WEIGHBRIDGE_TEST", "told")
    monkeypatch.syspath_prepend(str(tmp_path / "added"))
    options = {"threads": 2, "environment": {"ATEN_CPU_CAPABILITY": "default"}}
    forked, fresh = seen(**options), seen(**options, fresh=True)
    assert fresh.parent == os.getpid() != forked.parent
    assert (forked.loaded, fresh.loaded) == (True, False)
    for each in ("threads", "capability", "hashed", "environment", "directory", "arguments", "open_files"):
        assert getattr(forked, each) == getattr(fresh, each), each
    assert list(dict.fromkeys(forked.path)) == list(dict.fromkeys(fresh.path))
    assert (forked.threads, forked.environment["WEIGHBRIDGE_TEST"]) == (2, "told")


def test_it_computes_the_bits_of_a_fresh_one_with_the_instructions_of_its_own_environment():
    found = []
    for fresh in (False, True):
        with RUNNER.start("it", threads=1, environment=oracle.ENVIRONMENT, modules=TORCH, fresh=fresh) as worker:
            found.append(worker.call(jobs.Compute(), timeout_s=60))
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_what_libraries_read_when_they_are_imported_leads_to_a_fresh_one(monkeypatch):
    assert told(modules=TORCH)[0] != os.getpid()
    monkeypatch.setenv("TORCH_LOGS", "+dynamo")
    assert told(modules=TORCH) == (os.getpid(), False)
    monkeypatch.delenv("TORCH_LOGS")
    assert told(modules=TORCH)[0] != os.getpid()


@pytest.mark.usefixtures("own_template")
def test_a_template_that_cannot_import_what_is_asked_for_is_done_without():
    assert told(modules=("pipeline.no_such_module",))[0] == os.getpid()
    assert told()[0] == os.getpid()  # it is not tried again and again


@pytest.mark.usefixtures("own_template")
def test_a_template_outlives_the_folder_that_it_was_started_from(monkeypatch, tmp_path):
    task = tmp_path / "task"
    task.mkdir()
    with monkeypatch.context() as patched:
        patched.chdir(task)
        RUNNER.expect(["torch"])
        task.rmdir()
    assert told(modules=TORCH)[0] != os.getpid()


@pytest.mark.usefixtures("own_template")
def test_a_template_that_has_served_and_was_killed_is_replaced():
    first = told()[0]
    os.kill(first, signal.SIGKILL)
    assert _eventually(lambda: not starting._template.alive)
    assert told()[0] not in {first, os.getpid()}


@pytest.mark.usefixtures("own_template")
def test_what_is_expected_is_imported_before_a_worker_asks_for_it():
    light = "pipeline.report.words"
    assert not told(light)[1]
    RUNNER.expect(["pipeline.no_such_module", "pipeline.weights.files:no_such_function", light])
    assert _eventually(lambda: told(light)[1])
    assert told(light)[0] != os.getpid()  # what could not be imported did no harm


@pytest.mark.usefixtures("own_template")
def test_a_template_that_nobody_came_for_is_not_waited_for():
    RUNNER.expect(["torch"])
    used = starting._template
    used.end()
    assert used._process.returncode == -signal.SIGKILL


@pytest.mark.usefixtures("own_template")
def test_a_worker_ends_with_its_template_and_the_next_has_a_new_one():
    with RUNNER.start("the worker", threads=1) as worker:
        template, _ = worker.call(jobs.Tell(), timeout_s=60)
        starting.stop_template()
        with pytest.raises(WorkerError, match="the worker was ended by SIGKILL"):
            worker.call(jobs.Sleep(), timeout_s=60)
    assert told()[0] not in {template, os.getpid()}


@pytest.mark.usefixtures("own_template")
def test_a_template_ends_with_the_process_that_started_it_even_while_it_imports(tmp_path):
    slow = tmp_path / "torch"
    slow.mkdir()
    (slow / "__init__.py").write_text(
        f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n"
    )
    parent = os.fork()
    if parent == 0:
        sys.path.insert(0, str(tmp_path))
        RUNNER.start("the worker", threads=1, modules=TORCH)
        os._exit(0)
    number = _eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    assert _eventually(lambda: not _runs(int(number)))


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def _eventually(condition, patience_s=30.0):
    until = time.monotonic() + patience_s
    while not (found := condition()) and time.monotonic() < until:
        time.sleep(0.05)
    return found
