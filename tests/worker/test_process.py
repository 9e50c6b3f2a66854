"""What happens to a worker that crashes, hangs, floods or answers garbage. Real processes, real signals."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from pipeline.errors import InputError, WorkerError
from pipeline.worker.process import Worker

# A child that speaks the protocol of `pipeline.worker.child` with jobs made to fail.
FAULTY = """
import os, signal, sys, time
from pipeline.worker import child, jobs
from pipeline.errors import InputError

def typed(): raise InputError("this is wrong", hint="do that")
def untyped(): raise ZeroDivisionError("division by zero")
def flood():
    for _ in range(2000): os.write(1, b"x" * 4096)
    return "done"
def garbage():
    os.write(int(sys.argv[1]), b"\\x08" + bytes(7) + b"garbage!")
    time.sleep(30)
def fork_and_hang():
    if os.fork() == 0: time.sleep(300)
    time.sleep(300)
def last_words():
    print("the disk is on fire", file=sys.stderr)
    os._exit(3)

JOBS = {
    "ping": lambda: "pong",
    "typed": typed, "untyped": untyped, "flood": flood, "garbage": garbage, "fork_and_hang": fork_and_hang,
    "last_words": last_words,
    "kill": lambda number: os.kill(os.getpid(), number),
    "leave": lambda: os._exit(7),
    "sleep": lambda: time.sleep(300),
    "close": lambda: (os.close(int(sys.argv[1])), time.sleep(300)),
}
class Jobs:
    def run(self, job, arguments): return JOBS[job](**arguments)
jobs.Jobs = Jobs
child.main()
"""


@pytest.fixture
def worker(tmp_path, monkeypatch):
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    real = subprocess.Popen

    def start(command, **options):
        # The same start-up, with another table of jobs behind it.
        return real([command[0], str(script), *command[3:]], **options)

    monkeypatch.setattr("pipeline.worker.process.subprocess.Popen", start)
    with Worker("the worker", threads=1) as started:
        monkeypatch.undo()
        yield started


def call(worker, job, timeout_s=20.0, **arguments):
    return worker.call(job, timeout_s=timeout_s, **arguments)


def test_a_worker_answers_again_after_an_expected_error(worker):
    with pytest.raises(InputError, match="this is wrong") as caught:
        call(worker, "typed")
    assert caught.value.hint == "do that"
    assert call(worker, "ping") == "pong"


def test_what_is_no_error_of_ours_becomes_a_worker_error_with_its_class(worker):
    with pytest.raises(WorkerError, match="the worker failed: ZeroDivisionError: division by zero"):
        call(worker, "untyped")


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (8, "SIGFPE"), (6, "SIGABRT"), (9, "SIGKILL")])
def test_a_crash_names_its_signal_and_the_job(worker, number, name):
    with pytest.raises(WorkerError, match=f"the worker was ended by {name} during 'kill'"):
        call(worker, "kill", number=number)


def test_leaving_without_an_answer_is_a_crash(worker):
    with pytest.raises(WorkerError, match="exited with status 7"):
        call(worker, "leave")


def test_last_words_are_shown(worker):
    with pytest.raises(WorkerError, match="the disk is on fire"):
        call(worker, "last_words")


def test_a_hang_ends_at_the_time_limit(worker):
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"did not finish 'sleep' within 1 s"):
        call(worker, "sleep", timeout_s=1.0)
    assert time.monotonic() - began < 10  # generous: the machine may be busy


def test_children_of_a_hanging_worker_are_ended_too(worker):
    with pytest.raises(WorkerError):
        call(worker, "fork_and_hang", timeout_s=1.5)
    group = worker._process.pid
    _wait_for(lambda: not [each.pid for each in psutil.process_iter() if _is_alive(each) and _group(each.pid) == group])


def test_a_flood_of_output_neither_blocks_nor_is_kept(worker):
    assert call(worker, "flood") == "done"
    assert sum(map(len, worker._tail._chunks)) <= 16 << 10


def test_garbage_and_a_closed_channel_are_failures_not_hangs(worker):
    with pytest.raises(WorkerError, match="not a message"):
        call(worker, "garbage")


def test_a_closed_channel_is_a_failure(worker):
    with pytest.raises(WorkerError):
        call(worker, "close")


def test_a_worker_dies_with_its_parent_even_when_it_never_reads_again():
    parent = textwrap.dedent("""
        import os, sys, time
        from pipeline.worker.process import Worker
        worker = Worker("orphan", threads=1)
        print(worker._process.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        pid = int(process.stdout.readline())
        _wait_for(lambda: _listens(pid))
        process.kill()
    _wait_for(lambda: not psutil.pid_exists(pid) or not _is_alive(psutil.Process(pid)))


def _listens(pid):
    """Whether the child has armed itself: its lifeline pipe is in asynchronous mode."""
    texts = [path.read_text() for path in Path(f"/proc/{pid}/fdinfo").iterdir()]
    return any(int(text.split("flags:")[1].split()[0], 8) & os.O_ASYNC for text in texts)


def _is_alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _group(pid):
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _wait_for(condition, limit_s=20.0):
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.05)
