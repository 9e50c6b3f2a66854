"""What happens to a worker that crashes, hangs, floods or answers garbage. Real processes, real signals."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import ExitStack

import numpy as np
import psutil
import pytest

from pipeline.errors import InputError, WorkerError
from pipeline.worker.process import Terms, Worker

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
def fork_and_crash():
    if os.fork() == 0: time.sleep(300)  # it holds the channel open
    os.kill(os.getpid(), signal.SIGSEGV)
def fault():
    import ctypes
    ctypes.string_at(0)
def exhaust_memory():
    held = []
    while True: held.append(bytearray(os.urandom(1 << 20)) * 16)
def last_words():
    print("the disk is on fire", file=sys.stderr)
    os._exit(3)

JOBS = {
    "ping": lambda: "pong",
    "typed": typed, "untyped": untyped, "flood": flood, "garbage": garbage, "fork_and_hang": fork_and_hang,
    "last_words": last_words, "fork_and_crash": fork_and_crash, "fault": fault, "exhaust_memory": exhaust_memory,
    "fork": lambda: os.fork() or time.sleep(300),
    "echo": lambda value: value,
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
def start_worker(tmp_path, monkeypatch):
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    real = subprocess.Popen

    def start(command, **options):
        # The same start-up, with another table of jobs behind it.
        return real([command[0], str(script), *command[3:]], **options)

    def started(**terms):
        monkeypatch.setattr("pipeline.worker.process.subprocess.Popen", start)
        worker = stack.enter_context(Worker("the worker", threads=1, terms=Terms(**terms)))
        monkeypatch.undo()
        return worker

    with ExitStack() as stack:
        yield started


@pytest.fixture
def worker(start_worker):
    return start_worker()


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


def test_of_a_fault_handlers_report_the_innermost_frames_are_shown(worker):
    with pytest.raises(WorkerError, match=r"(?s)SIGSEGV.*Fatal Python error: Segmentation fault.*in string_at"):
        call(worker, "fault")


def test_a_crash_is_noticed_although_what_the_worker_started_holds_its_channel_open(worker):
    with pytest.raises(WorkerError, match="was ended by SIGSEGV during 'fork_and_crash'"):
        call(worker, "fork_and_crash")


def test_sending_to_a_worker_that_does_not_read_ends_at_the_time_limit(start_worker):
    worker = start_worker()
    call(worker, "ping")
    os.kill(worker._process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match=r"did not finish 'echo' within 0\.5 s"):
        call(worker, "echo", timeout_s=0.5, value=np.zeros(10_000_000))


def test_more_memory_than_allowed_is_a_failure_that_names_the_limit(start_worker):
    worker = start_worker(memory_bytes=600 << 20)
    assert call(worker, "ping") == "pong"
    with pytest.raises(
        WorkerError, match=r"ran out of memory during 'exhaust_memory' \(limits.memory_bytes is 629,145,600\)"
    ):
        call(worker, "exhaust_memory")
    assert not worker.alive


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
    assert len(worker._tail._kept) <= 16 << 10


def test_garbage_and_a_closed_channel_are_failures_not_hangs(worker):
    with pytest.raises(WorkerError, match="not a message"):
        call(worker, "garbage")


def test_a_closed_channel_is_a_failure(worker):
    with pytest.raises(WorkerError):
        call(worker, "close")


def test_a_worker_and_what_it_started_die_with_its_parent_even_when_it_never_reads_again(tmp_path):
    script = tmp_path / "faulty.py"
    script.write_text(FAULTY)
    parent = textwrap.dedent(f"""
        import subprocess, time
        from pipeline.worker import process
        real = subprocess.Popen
        process.subprocess.Popen = lambda command, **rest: real([command[0], {str(script)!r}, *command[3:]], **rest)
        worker = process.Worker("orphan", threads=1)
        print(worker._process.pid, worker.call("fork", timeout_s=60), flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True) as process:
        pids = [int(each) for each in process.stdout.readline().split()]
        assert all(_is_alive(psutil.Process(pid)) for pid in pids)
        process.kill()
    _wait_for(lambda: not [pid for pid in pids if psutil.pid_exists(pid) and _is_alive(psutil.Process(pid))])


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
