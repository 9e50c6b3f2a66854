"""What happens to a worker that crashes, hangs, floods or answers garbage. Real processes, real signals."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest

from pipeline.errors import WorkerError
from pipeline.worker import job, wire
from pipeline.worker.process import LocalRunner
from tests.worker import jobs


@pytest.fixture
def worker():
    with LocalRunner(packages=("tests",)).start("the worker", threads=1) as started:
        yield started


def call(worker, request, timeout_s=20.0):
    return worker.call(request, timeout_s=timeout_s)


@pytest.mark.parametrize(("number", "name"), [(11, "SIGSEGV"), (8, "SIGFPE"), (6, "SIGABRT"), (9, "SIGKILL")])
def test_a_crash_names_its_signal_and_the_job(worker, number, name):
    with pytest.raises(WorkerError, match=f"the worker was ended by {name} during 'kill'"):
        call(worker, jobs.Kill(number=number))


def test_leaving_without_an_answer_is_a_crash(worker):
    with pytest.raises(WorkerError, match="exited with status 7"):
        call(worker, jobs.Leave())


def test_last_words_are_shown(worker):
    with pytest.raises(WorkerError, match="the disk is on fire"):
        call(worker, jobs.SayLastWords())


def test_of_a_fault_handlers_report_the_innermost_frames_are_shown(worker):
    with pytest.raises(WorkerError, match=r"(?s)SIGSEGV.*Fatal Python error: Segmentation fault.*in string_at"):
        call(worker, jobs.Fault())


def test_a_crash_is_noticed_although_what_the_worker_started_holds_its_channel_open(worker):
    with pytest.raises(WorkerError, match="was ended by SIGSEGV during 'fork and crash'"):
        call(worker, jobs.ForkAndCrash())


def test_sending_to_a_worker_that_does_not_read_ends_at_the_time_limit(worker):
    call(worker, jobs.Ping())
    os.kill(worker._process.pid, signal.SIGSTOP)
    with pytest.raises(WorkerError, match=r"did not finish 'echo' within 0\.5 s"):
        call(worker, jobs.Echo(values={"x": np.zeros(10_000_000)}), timeout_s=0.5)


def test_more_memory_than_allowed_is_a_failure_that_names_the_limit():
    with LocalRunner(memory_bytes=600 << 20, packages=("tests",)).start(
        "the worker", threads=1, modules=("torch",)
    ) as worker:
        assert call(worker, jobs.Ping()) == "pong"
        with pytest.raises(
            WorkerError, match=r"ran out of memory during 'exhaust memory' \(limits.memory_bytes is 629,145,600\)"
        ):
            call(worker, jobs.ExhaustMemory())
        assert not worker.alive


def test_a_hang_ends_at_the_time_limit(worker):
    began = time.monotonic()
    with pytest.raises(WorkerError, match=r"did not finish 'sleep' within 1 s"):
        call(worker, jobs.Sleep(), timeout_s=1.0)
    assert time.monotonic() - began < 10  # generous: the machine may be busy


def test_children_of_a_hanging_worker_are_ended_too(worker):
    with pytest.raises(WorkerError):
        call(worker, jobs.ForkAndHang(), timeout_s=1.5)
    group = worker._process.pid
    _wait_for(lambda: not [each.pid for each in psutil.process_iter() if _is_alive(each) and _group(each.pid) == group])


def test_a_flood_of_output_neither_blocks_nor_is_kept(worker):
    assert call(worker, jobs.Flood()) == "done"
    assert len(worker._tail._last) <= 16 << 10


def test_garbage_and_a_closed_channel_are_failures_not_hangs(worker):
    with pytest.raises(WorkerError, match="not a message"):
        call(worker, jobs.AnswerGarbage())
    assert not worker.alive


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("[]", "valid dictionary"),
        ("null", "valid dictionary"),
        ("{}", "answer: field required"),
        ('{"answer": 1}', "answer: input should be a valid string"),
        ('{"answer": "pong", "more": 1}', "more: extra inputs"),
        ('{"failure": {}}', "kind: field required"),
        ('{"failure": null}', "valid dictionary"),
    ],
)
def test_a_message_that_answers_something_else_is_garbage(worker, body, wrong):
    garbage = jobs.AnswerGarbage(text=f'{{"body": {body}, "arrays": []}}')
    wire.send(worker._channel, job.message_of(garbage))  # whose answer is taken for that of the next
    with pytest.raises(WorkerError, match=rf"answered 'ping' with garbage: .*{wrong}"):
        call(worker, jobs.Ping())
    assert not worker.alive


def test_a_closed_channel_is_a_failure(worker):
    with pytest.raises(WorkerError):
        call(worker, jobs.CloseChannel())


def test_a_worker_and_what_it_started_die_with_its_parent_even_when_it_never_reads_again():
    parent = textwrap.dedent("""
        import time
        from pipeline.worker.process import LocalRunner
        from tests.worker import jobs
        worker = LocalRunner(packages=("tests",)).start("orphan", threads=1)
        print(worker._process.pid, worker.call(jobs.Fork(), timeout_s=60), flush=True)
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
